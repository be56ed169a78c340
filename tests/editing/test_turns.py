"""Which of the jobs that wait for a device is next."""

import time
from threading import Event

import pytest
import torch

from retouch import SessionError
from retouch.editing import turns
from retouch.editing.jobs import Job, Origin, Task, asked_by
from retouch.editing.turns import Turns
from retouch.editing.worker import Worker

WAIT = 60


class Nothing(Task):
    def __init__(self, can_wait=False):
        self.can_wait = can_wait

    def run(self, job):
        return None


def job(session, caller="", can_wait=False):
    with asked_by(Origin(caller=caller)):
        return Job(session, Nothing(can_wait), None)


def order(found, seconds=1.0):
    names = []
    while (each := found.next(urgent=False)) is not None:
        names.append(each.session)
        found.used(each, seconds)
    return names


def test_edits_come_before_recordings_and_a_recording_waits_only_so_long(monkeypatch):
    found = Turns()
    found.add(recording := job("new", can_wait=True))
    assert not found.is_urgent()
    assert found.next(urgent=True) is None
    found.add(job("edited"))
    assert found.next(urgent=True).session == "edited"
    monkeypatch.setattr(turns, "LONG", 0.0)
    time.sleep(0.001)
    assert found.is_urgent()
    assert found.next(urgent=True) is recording


def test_an_edit_of_a_picture_that_is_to_be_recorded_makes_that_urgent():
    found = Turns()
    found.add(recording := job("new", can_wait=True))
    found.add(job("new"))
    assert found.next(urgent=True) is recording


def test_callers_share_the_device_by_time_and_not_by_sessions():
    found = Turns()
    for i in range(4):
        found.add(job(f"a{i}", "anna"))
    for i in range(2):
        found.add(job(f"b{i}", "ben"))
    assert order(found) == ["a0", "b0", "a1", "b1", "a2", "a3"]


def test_who_was_away_has_saved_up_nothing():
    found = Turns()
    for i in range(6):
        found.add(job(f"a{i}", "anna"))
    for _ in range(3):
        found.used(found.next(urgent=False), 1.0)
    for i in range(3):
        found.add(job(f"b{i}", "ben"))
    assert order(found) == ["a3", "b0", "a4", "b1", "a5", "b2"]


def test_a_job_that_nobody_waits_for_any_more_is_not_begun():
    worker, go = Worker(torch.device("cpu")), Event()

    class Held(Nothing):
        def run(self, job):
            assert go.wait(WAIT)

    worker.submit("a", Held(), join=False)
    with asked_by(Origin(until=time.monotonic())):
        late = worker.submit("b", Nothing(), join=False)
    go.set()
    with pytest.raises(SessionError, match="nobody waited"):
        late.result(WAIT)
