"""Sessions whose recordings a device has no memory for: each step's rows are sent before the one before is done."""

import numpy as np
import pytest
import torch

from kernels.test_transfers import CPU
from pipelines import painted, picture, pipeline
from retouch import Editor, kernels
from retouch.incremental import Incremental
from retouch.kernels.transfers import Transfers
from retouch.runtime.state.layered import Restored
from retouch.runtime.store import Store

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
STEPS = 3


@pytest.fixture
def log(monkeypatch):
    """What happens in order: transfers, updates and their ends; the reference backend stands for a device's."""
    found = []

    class Logged(Transfers):
        def send(self, parts):
            found.append("send")
            return super().send(parts)

    real = Incremental.update

    def update(self, *args, **kwargs):
        found.append("update")
        result = real(self, *args, **kwargs)
        found.append("done")
        return result

    monkeypatch.setattr(kernels.backend("reference"), "transfers", Logged(CPU))
    monkeypatch.setattr(Incremental, "update", update)
    return found


def session(monkeypatch, name, **budgets):
    editor = Editor(pipeline(name), backend="reference", name=name)
    monkeypatch.setattr(editor, "_store", lambda storage=None: Store(**budgets))
    words = {"prompt": "a b"} if name == "sd" else {}
    return editor.open(picture(name), steps=STEPS, strength=1.0, **words)


@pytest.mark.parametrize("name", ["ddpm", "sd"])
def test_the_next_step_is_fetched_while_one_computes(name, log, monkeypatch):
    near, far = session(monkeypatch, name, device_budget=1 << 40), session(monkeypatch, name, device_budget=0)
    assert near.info()["bytes"]["memory"] == far.info()["bytes"]["device"] == 0
    for seed in range(2):
        drawn = painted(near.pixels, top=9 + seed)
        expected = near.edit(drawn)
        log.clear()
        assert np.array_equal(far.edit(drawn).image, expected.image)
    steps = [far.network(f"step-{i:03d}") for i in range(STEPS)]
    assert len(set(map(id, steps))) == 1
    alone, first, last = ["update", "send", "done"], ["update", "send", "send", "done"], ["update", "done"]
    between = ["update", "send", "done"] * (STEPS - 2)
    outside = alone if name == "sd" else []
    assert log == [*outside, *first, *between, *last, *outside]


def test_an_edit_with_other_words_brings_its_own(log, monkeypatch):
    near, far = session(monkeypatch, "sd", device_budget=1 << 40), session(monkeypatch, "sd", device_budget=0)
    mask = np.zeros(near.size, bool)
    mask[8:20, 8:20] = True
    for words in ("c d", "a b"):
        expected = near.edit(mask=mask, prompt=words)
        assert np.array_equal(far.edit(mask=mask, prompt=words).image, expected.image)
        assert torch.equal(far.version.tensors["latents"], near.version.tensors["latents"])


def test_what_there_is_no_memory_to_fetch_ahead_is_fetched_in_time(log, monkeypatch):
    near, far = session(monkeypatch, "ddpm", device_budget=1 << 40), session(monkeypatch, "ddpm", device_budget=0)
    real = Restored.fetch

    def fetch(self, *wanted):
        if log[-1] != "update":
            log.append("full")
            raise torch.OutOfMemoryError("out of memory")
        real(self, *wanted)

    monkeypatch.setattr(Restored, "fetch", fetch)
    drawn = painted(near.pixels)
    expected = near.edit(drawn)
    log.clear()
    assert np.array_equal(far.edit(drawn).image, expected.image)
    assert log == [*["update", "send", "full", "done"] * (STEPS - 1), "update", "send", "done"]
