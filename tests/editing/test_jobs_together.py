"""Jobs of several sessions together: each as if it were alone."""

import time
from concurrent.futures import CancelledError
from contextlib import contextmanager
from threading import Event

import numpy as np
import pytest
import torch

from editing.diffusion.test_session import contents, editor, equal
from editing.gan.test_upscaler import upscaler
from editing.live import SPARSE, WAIT, Gate, session
from pipelines import painted, picture
from retouch.editing import meeting
from retouch.editing.jobs import Origin, Task, asked_by
from retouch.editing.worker import worker_of
from retouch.incremental import Incremental

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

PLACES = [(3, 4), (9, 14), (20, 8), (22, 21), (12, 3), (5, 20), (14, 14), (24, 24), (1, 12)]


@pytest.fixture(autouse=True)
def gains(monkeypatch):
    """Tiny networks are taken to gain, and nobody is late, however busy the machine is."""
    monkeypatch.setattr(Incremental, "gain", lambda self, region: 4.0)
    monkeypatch.setattr(meeting, "PATIENCE", WAIT)
    monkeypatch.setattr(worker_of(torch.device("cpu")), "together", 8)


class Holding(Task):
    """Keeps the device busy until it is told."""

    def __init__(self):
        self.begun, self.go = Event(), Event()

    def run(self, job):
        self.begun.set()
        assert self.go.wait(WAIT)


@contextmanager
def held(worker):
    """What is submitted in a block waits until its end."""
    task = Holding()
    worker.submit(object(), task, False)
    assert task.begun.wait(WAIT)
    try:
        yield
    finally:
        task.go.set()


def sessions(count, **options):
    return [session(seed=k, **options) for k in range(count)]


def stroke(live, number):
    return painted(live.pixels, *PLACES[number], 5, (250, 20 * number, 40))


def submitted(found, **options):
    with held(found[0].worker):
        return [live.submit(stroke(live, k), refine="off", **options) for k, live in enumerate(found)]


def alone(number, **options):
    """A session like that of a number, edited as that."""
    live = session(seed=number, **options)
    live.edit(stroke(live, number))
    return live


def test_what_the_system_has_no_thread_for_is_computed_after_the_others(monkeypatch):
    started = []

    class Few(meeting.Thread):
        def start(self):
            started.append(self)
            if len(started) > 1:
                raise RuntimeError("can't start new thread")
            super().start()

    monkeypatch.setattr(meeting, "Thread", Few)
    found = sessions(3)
    for number, (live, job) in enumerate(zip(found, submitted(found), strict=True)):
        assert np.array_equal(job.result(WAIT).image, alone(number).pixels)
        assert equal(contents(live), contents(alone(number)))
    assert len(started) == 3


@pytest.mark.parametrize("name", ["ddpm", "sd"])
def test_edits_of_several_sessions_equal_those_of_each_alone_bit_for_bit(name):
    found = sessions(3, name=name)
    jobs = submitted(found)
    frames = [list(job) for job in jobs]
    assert [job.together for job in jobs] == [3] * 3
    for k, live in enumerate(found):
        plain = alone(k, name=name)
        assert np.array_equal(np.asarray(jobs[k].result().image), plain.pixels)
        assert equal(contents(live), contents(plain))
        assert frames[k][-1].kind == "result"
        assert frames[k][-1].done == plain.version.facts["macs"]
        live.undo()
        assert np.array_equal(live.pixels, picture(name))


def test_edits_at_steps_of_their_own_and_with_words_of_their_own():
    found = sessions(3, name="sd")
    given = [{"strength": 0.7}, {"prompt": "b c"}, {"inpaint": True, "mask": np.eye(64, k=3, dtype=bool)}]
    with held(found[0].worker):
        jobs = [
            live.submit(None if "mask" in options else stroke(live, k), refine="off", **options)
            for k, (live, options) in enumerate(zip(found, given, strict=True))
        ]
    for k, (live, options) in enumerate(zip(found, given, strict=True)):
        jobs[k].result(WAIT)
        plain = session(name="sd", seed=k)
        if options.pop("inpaint", False):
            plain.inpaint(**options)
        else:
            plain.edit(stroke(plain, k), **options)
        assert np.array_equal(live.pixels, plain.pixels)
        assert equal(contents(live), contents(plain))
    assert {job.together for job in jobs} == {3}


def test_networks_are_called_once_for_all(monkeypatch):
    counts, update_many = [], Incremental.update_many

    def counted(self, recordings, *args):
        counts.append(len(recordings))
        return update_many(self, recordings, *args)

    monkeypatch.setattr(Incremental, "update_many", counted)
    for job in submitted(sessions(3)):
        job.result(WAIT)
    assert counts == [3] * 3


def test_as_many_as_the_worker_takes():
    found = sessions(4)
    worker = found[0].worker
    worker.together = 2
    assert [job.together for job in ended(submitted(found))] == [2] * 4
    worker.together = 1
    assert [job.together for job in ended(submitted(found))] == [1] * 4


def ended(jobs):
    for job in jobs:
        job.result(WAIT)
    return jobs


def test_one_is_cancelled_and_one_fails(monkeypatch):
    monkeypatch.setattr(meeting, "PATIENCE", 0.05)
    found, gate = sessions(4), Gate("step 2")
    before = found[0].version

    def broken(done, total, what):
        if what.startswith("step 3"):
            raise KeyError("broken")

    told = [gate, broken, None, None]
    with held(found[0].worker):
        jobs = [
            live.submit(stroke(live, k), refine="off", **({"progress": told[k]} if told[k] else {}))
            for k, live in enumerate(found)
        ]
    gate.wait()
    assert jobs[0].cancel()
    gate.go.set()
    with pytest.raises(CancelledError):
        jobs[0].result(WAIT)
    with pytest.raises(KeyError, match="broken"):
        jobs[1].result(WAIT)
    for k in (2, 3):
        jobs[k].result(WAIT)
        assert equal(contents(found[k]), contents(alone(k)))
    assert [len(live.versions) for live in found] == [1, 1, 2, 2]
    assert found[0].version is before
    ended([live.submit(stroke(live, k), refine="off") for k, live in enumerate(found[:2])])


def test_a_network_that_fails_for_one_is_computed_for_the_others(monkeypatch):
    found, update_many = sessions(3), Incremental.update_many
    broken = {id(snapshot) for snapshot in found[1].version.snapshots.values()}

    def fails(self, recordings, *args):
        if any(id(recording.snapshot) in broken for recording in recordings):
            raise MemoryError("full")
        return update_many(self, recordings, *args)

    def fails_alone(self, recording, *args, **kwargs):
        if id(recording.snapshot) in broken:
            raise MemoryError("full")
        return update(self, recording, *args, **kwargs)

    update = Incremental.update
    monkeypatch.setattr(Incremental, "update_many", fails)
    monkeypatch.setattr(Incremental, "update", fails_alone)
    jobs = submitted(found)
    with pytest.raises(MemoryError, match="full"):
        jobs[1].result(WAIT)
    for k in (0, 2):
        jobs[k].result(WAIT)
    monkeypatch.undo()
    for k in (0, 2):
        assert equal(contents(found[k]), contents(alone(k)))
    assert len(found[1].versions) == 1


def test_sessions_of_other_networks_are_not_computed_with_them():
    found = [session(seed=0), session("sd", seed=1), session(seed=2), session("sd", seed=3)]
    large = editor("ddpm", SPARSE).open(np.tile(picture("ddpm"), (2, 2, 1)), steps=3, strength=1.0)
    jobs = submitted([*found, large])
    assert [job.together for job in ended(jobs)] == [2, 2, 2, 2, 1]


def test_edits_of_one_session_follow_each_other():
    found = sessions(2)
    with held(found[0].worker):
        jobs = [found[k].submit(stroke(found[k], n), refine="off", join=False) for k, n in ((0, 0), (0, 1), (1, 2))]
    ended(jobs)
    plain = session(seed=0)
    for n in (0, 1):
        plain.edit(stroke(plain, n))
    assert [v.parent for v in found[0].versions] == [None, 0, 1]
    assert np.array_equal(found[0].pixels, plain.pixels)
    assert jobs[0].together == 2


def test_one_that_comes_later_joins_when_it_is_its_turn():
    found, gates = sessions(3), [Gate("step 2"), Gate("step 2")]
    with held(found[0].worker):
        jobs = [found[k].submit(stroke(found[k], k), refine="off", progress=gates[k]) for k in (0, 1)]
    for gate in gates:
        gate.wait()
    jobs.append(found[2].submit(stroke(found[2], 2), refine="off"))
    for gate in gates:
        gate.go.set()
    assert [job.together for job in ended(jobs)] == [3, 3, 3]
    for k, live in enumerate(found):
        assert equal(contents(live), contents(alone(k)))


def test_one_whose_turn_is_later_does_not_join():
    found, gates = [*sessions(3), session("sd", seed=3)], [Gate("step 2"), Gate("step 2")]
    order = []
    with held(found[0].worker):
        jobs = [found[k].submit(stroke(found[k], k), refine="off", progress=gates[k]) for k in (0, 1)]
    for gate in gates:
        gate.wait()
    with asked_by(Origin(caller="who waits longest")):
        jobs.append(found[3].submit(stroke(found[3], 3), refine="off"))
    with asked_by(Origin(caller="another")):
        jobs.append(found[2].submit(stroke(found[2], 2), refine="off"))
    for job in jobs:
        job.add_done_callback(order.append)
    for gate in gates:
        gate.go.set()
    assert [job.together for job in ended(jobs)] == [2, 2, 1, 1]
    assert order[2:] == jobs[2:]


def test_edits_before_refinements_before_recordings():
    found, order = sessions(2), []
    with held(found[0].worker):
        made = editor("ddpm", SPARSE).open(picture("ddpm"), steps=3, strength=1.0, wait=False)
        made.opening.add_done_callback(lambda _: order.append("recording"))
        jobs = [live.submit(stroke(live, k), refine="step") for k, live in enumerate(found)]
        for job in jobs:
            job.add_done_callback(lambda _: order.append("edit"))
            job.when_over(lambda: order.append("refined"))
    for job in jobs:
        list(job)
    made.opening.result(WAIT)
    end = time.monotonic() + WAIT
    while len(order) < 5 and time.monotonic() < end:
        time.sleep(0.01)
    assert order == ["edit", "edit", "refined", "refined", "recording"]
    assert [job.together for job in jobs] == [2, 2]


def test_a_newer_stroke_takes_the_place_of_one_that_is_computed_with_others(monkeypatch):
    monkeypatch.setattr(meeting, "PATIENCE", 0.05)
    found, gate = sessions(2), Gate("step 2")
    with held(found[0].worker):
        jobs = [found[0].submit(stroke(found[0], 0), refine="off", progress=gate)]
        jobs.append(found[1].submit(stroke(found[1], 1), refine="off"))
    gate.wait()
    newer = found[0].submit(stroke(found[0], 2), refine="off")
    gate.go.set()
    newer.result(WAIT)
    assert jobs[0].cancelled()
    assert len(found[0].versions) == 2
    jobs[1].result(WAIT)
    assert equal(contents(found[1]), contents(alone(1)))


def test_sources_of_generators(monkeypatch):
    made = upscaler()
    pictures = [np.random.default_rng(k).integers(0, 256, (16, 16, 3), np.uint8) for k in range(3)]
    found, plain = ([made.open(each) for each in pictures] for _ in range(2))
    with held(found[0].worker):
        jobs = [live.submit(painted(live.source, 2 + 3 * k, 4, 2)) for k, live in enumerate(found)]
    for k, job in enumerate(jobs):
        job.result(WAIT)
        plain[k].edit(painted(plain[k].source, 2 + 3 * k, 4, 2))
        assert np.array_equal(found[k].pixels, plain[k].pixels)
    assert [job.together for job in jobs] == [3] * 3
