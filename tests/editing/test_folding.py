"""Layers of sessions are folded when nothing else is to be done, and nobody notices."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from time import monotonic, sleep

import numpy as np
import pytest
import torch

from editing.live import WAIT, session
from pipelines import painted
from retouch.editing.worker import Worker
from retouch.runtime.state import folding

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """More than two layers are many."""
    monkeypatch.setattr(folding, "MANY", 2)


def edited(live, count):
    for number in range(count):
        live.edit(painted(live.pixels, left=4 + 3 * number))
    return live


def is_deep(live):
    return any(snapshot.is_deep for snapshot in live.version.snapshots.values())


def wait_until(true):
    end = monotonic() + WAIT
    while not true():
        assert monotonic() < end
        sleep(0.01)


def test_a_session_that_rests_has_few_layers_and_goes_on_as_if_it_had_many(monkeypatch):
    rested = edited(session(), 4)
    wait_until(lambda: not is_deep(rested))
    monkeypatch.setattr(Worker, "later", lambda *args: None)
    hurried = edited(session(), 4)
    assert is_deep(hurried)
    for live in (rested, hurried):
        edited(live, 1)
    assert np.array_equal(rested.pixels, hurried.pixels)
    rested.undo(), hurried.undo(), rested.undo(), hurried.undo()
    assert np.array_equal(rested.pixels, hurried.pixels)


def test_one_call_is_folded_at_a_time_and_none_while_somebody_edits(monkeypatch):
    monkeypatch.setattr(Worker, "later", lambda *args: None)
    live = edited(session(), 4)
    before, count = live.version, len(live.version.snapshots)
    with live.lock:
        assert not in_thread(live.fold)
        assert live.version is before
    assert live.fold()
    assert sum(snapshot.is_deep for snapshot in live.version.snapshots.values()) == count - 1
    while live.fold():
        pass
    assert not is_deep(live)
    assert not live.fold()


def in_thread(call):
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(call).result(WAIT)


def test_a_closed_session_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(Worker, "later", lambda *args: None)
    live = edited(session(), 4)
    live.close()
    assert not live.fold()
    assert is_deep(live)


def test_a_job_goes_before_chores_and_a_chore_that_fails_stops_nothing(monkeypatch):
    told, worker, done = [], session().worker, Event()
    monkeypatch.setattr("threading.excepthook", told.append)

    def fails():
        raise RuntimeError("a chore")

    pieces = iter([True, True, False])
    worker.later("one", fails)
    worker.later("two", lambda: next(pieces) or done.set() or False)
    live = session()
    live.submit(painted(live.pixels), refine="off").result(WAIT)
    assert done.wait(WAIT)
    wait_until(lambda: told)
    assert str(told[0].exc_value) == "a chore"
    live.submit(painted(live.pixels), refine="off").result(WAIT)


def test_the_end_of_a_process_waits_for_a_chore_and_does_no_other():
    worker, begun, go = Worker(torch.device("cpu")), Event(), Event()

    def chore():
        begun.set()
        return go.wait(WAIT)

    worker.later("one", chore)
    assert begun.wait(WAIT)
    worker.later("another", lambda: pytest.fail("done after the end"))
    with ThreadPoolExecutor(1) as threads:
        end = threads.submit(worker._end)
        sleep(0.05)
        assert not end.done()
        go.set()
        end.result(WAIT)
    worker.later("late", lambda: pytest.fail("done after the end"))
    assert not worker._chores


ENDS = """
import sys
sys.path.insert(0, "tests")
from editing.live import Gate, session
from pipelines import painted
from retouch.editing import worker
live, gate = session(), Gate("step 2")
jobs = [live.submit(painted(live.pixels), refine="dense", progress=gate)]
gate.wait()
jobs.append(session().submit(painted(live.pixels)))
gate.go.set()
if {refines}:
    jobs[0].result()
"""


@pytest.mark.parametrize("refines", [False, True])
def test_a_process_may_end_while_an_edit_is_computed_or_refined(refines):
    """Nothing of it is told: no kernels as leaked, no thread that could not end."""
    text = ENDS.format(refines=refines)
    ran = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False, timeout=WAIT)
    assert ran.returncode == 0
    assert not [line for line in ran.stderr.splitlines() if "leak" in line or "terminate" in line or "Error" in line]
