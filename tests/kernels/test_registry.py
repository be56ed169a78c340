"""The registry of backends."""

import threading
import time

import torch

from retouch.kernels import registry


def test_a_backend_is_made_once_however_many_threads_ask(monkeypatch):
    made = []

    def slow(name, device):
        time.sleep(0.05)
        made.append(object())
        return made[-1]

    monkeypatch.setattr(registry, "_made", {})
    monkeypatch.setattr(registry, "_make", slow)
    found = []
    asking = [threading.Thread(target=lambda: found.append(registry.backend("reference"))) for _ in range(4)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert len(made) == 1
    assert found == made * 4
    assert registry.backend("reference", torch.device("cpu")) is made[0]
