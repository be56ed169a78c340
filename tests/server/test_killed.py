"""A server that is killed again and again while people paint: no sealed edit is lost, none is made twice."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests

from retouch.bench import serve
from retouch.bench.serve import Load, Server, drive
from studios import HOST, TOKENS

pytestmark = pytest.mark.skipif("RETOUCH_KILLS" not in os.environ, reason="takes minutes; RETOUCH_KILLS says how often")
KILLS = int(os.environ.get("RETOUCH_KILLS", "50"))
PATIENCE = 300

# Forks servers of one folder, one after the other: imports, weights and networks are there at once.
ZYGOTE = """
import os, sys
sys.path[:0] = [{tests!r}]
from pathlib import Path
import torch
torch.set_num_threads(1)
import uvicorn
from retouch.server.app import application
from studios import PORT, editor, studio
editor().unrecorded((32, 32), None, None, 1.0, None, 2, 0, 1.0)
while True:
    pid = os.fork()
    if not pid:
        config = uvicorn.Config(application(studio(Path({home!r}))), port=PORT, log_level="error", access_log=False)
        uvicorn.Server(config).run()
        os._exit(1)
    print(pid, flush=True)
    os.waitpid(pid, 0)
"""


@pytest.fixture
def servers(tmp_path):
    text = ZYGOTE.format(tests=str(Path(__file__).parents[1]), home=str(tmp_path / "home"))
    zygote = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)
    last = []

    def begun():
        last[:] = [int(zygote.stdout.readline())]
        return last[0]

    yield begun
    zygote.kill()
    zygote.wait()
    os.kill(last[0], signal.SIGKILL)
    zygote.stdout.close()


def answers():
    try:
        return requests.get(f"http://{HOST}/healthz", timeout=5).ok
    except requests.RequestException:
        return False


def test_nothing_is_lost_and_nothing_made_twice(servers, monkeypatch):
    monkeypatch.setattr(serve, "PATIENCE", PATIENCE)
    dice = random.Random(5)
    found, over = {}, threading.Event()
    server = Server("it", f"http://{HOST}", TOKENS["anna"])

    def paint():
        rounds = 0
        while not over.is_set():  # people come as long as servers are killed
            load = Load(people=2, rate=50, strokes=6, think=0.02, undo=0.2, reopen=0.1, size=32, stroke=5, steps=2,
                        seed=rounds)  # fmt: skip
            found[rounds] = drive([server], load)["it"]
            rounds += 1

    pid = servers()
    while not answers():
        time.sleep(0.01)
    alone = drive([server], Load(people=1, strokes=2, think=0, size=32, stroke=5, steps=2))["it"]
    span = alone.recording[0] + sum(alone.seconds)  # seconds of this machine in which something was done
    painting = threading.Thread(target=paint)
    painting.start()
    for _ in range(KILLS):
        while not answers():
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 2 * span))
        os.kill(pid, signal.SIGKILL)
        pid = servers()
    over.set()
    painting.join(2 * PATIENCE)
    assert not painting.is_alive()
    tallies = found.values()
    assert [tally.failed for tally in tallies if tally.failed] == []
    assert sum(len(tally.seconds) for tally in tallies) == 12 * len(found)
    assert sum(len(tally.refusals) for tally in tallies) > 0  # the kills were felt
    assert not any(any(tally.surplus) for tally in tallies)  # nothing is lost, and nothing there twice
