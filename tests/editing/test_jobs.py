"""Jobs: frames, cancelling, joining, order, errors and threads."""

from concurrent.futures import CancelledError
from itertools import pairwise
from threading import Event, Thread
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from editing.gan.test_upscaler import upscaler
from editing.live import WAIT, Gate, session
from pipelines import painted, picture
from retouch import ImageError, OptionError, SchedulerError, SessionError
from retouch.editing.calls import Calls
from retouch.editing.diffusion.asked import Asked
from retouch.editing.diffusion.drawing import Drawing
from retouch.editing.jobs import Job, Task
from retouch.editing.worker import MOST, Worker
from retouch.plan.region import dilate

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture
def updates(monkeypatch):
    """The names of the network calls that were made."""
    names, update = [], Calls.update

    def counted(self, name, *args, **kwargs):
        result = update(self, name, *args, **kwargs)
        names.append(name)
        return result

    monkeypatch.setattr(Calls, "update", counted)
    return names


# Frames.


def test_an_edit_shows_every_step_and_then_itself():
    live, plain = session(), session()
    drawn, before = painted(live.pixels), live.pixels
    gates = [Gate(f"step {i} of 3") for i in (2, 3)]

    def progress(*told):
        for gate in gates:
            gate(*told)

    job = live.submit(drawn, refine="off", progress=progress)
    frames, shown = [], iter(job)
    for gate in gates:
        gate.wait()
        frames.append(next(shown))
        gate.go.set()
    frames += shown
    assert [f.kind for f in frames[:2]] == ["preview"] * 2
    assert [(f.step, f.steps) for f in frames[:2]] == [(1, 3), (2, 3)]
    result = frames[-1]
    assert (result.kind, result.version, result.step) == ("result", 1, 3)
    assert {(f.version, f.rectangle) for f in frames} == {(1, result.rectangle)}
    assert all(a.seconds < b.seconds and a.done < b.done for a, b in pairwise(frames[:-1]))
    assert result.saved > result.done > 0
    left, top, right, bottom = result.rectangle
    assert result.pixels.shape == (bottom - top, right - left, 3)
    assert result.pixels.dtype == np.uint8
    before[top:bottom, left:right] = result.pixels
    assert np.array_equal(before, live.pixels)
    assert np.array_equal(live.pixels, np.asarray(plain.edit(drawn).image))
    assert np.array_equal(np.asarray(job.result().image), live.pixels)


def test_a_preview_changes_the_region_alone():
    live = session()
    drawn, before = painted(live.pixels), live.pixels
    gate = Gate("step 2")
    job = live.submit(drawn, refine="off", progress=gate)
    gate.wait()
    frame = next(iter(job))
    gate.go.set()
    left, top, right, bottom = frame.rectangle
    outside = np.array_equal(frame.pixels[0], before[top, left:right])
    assert outside, "the border around the region, where the result fades in, is the old picture's"
    inside = (drawn != before).any(-1)[top:bottom, left:right]
    assert not np.array_equal(frame.pixels[inside], before[top:bottom, left:right][inside])
    job.result()


def test_an_edit_that_changes_nothing_says_so():
    live = session()
    job = live.submit(live.pixels)
    (frame,) = job
    assert (frame.kind, frame.version, frame.rectangle, frame.pixels.shape) == ("result", 0, (0, 0, 0, 0), (0, 0, 3))
    assert not job.result().changed
    assert len(live.versions) == 1


def test_frames_that_nobody_reads_are_forgotten_and_the_result_is_not():
    job = Job(object(), Mock(), Mock())
    part, pixels = (slice(0, 1), slice(0, 1)), np.zeros((1, 1, 3), np.uint8)
    for step in range(1000):
        job.show("preview", 1, part, pixels, (step, 1000))
    assert [frame.step for _, frame in job._frames] == [999]
    found = [[], []]
    threads = [Thread(target=lambda to=to: to.extend(job)) for to in found]
    for thread in threads:
        thread.start()
    for kind in ("result", "refined", "refined"):
        job.show(kind, 1, part, pixels, (1, 1))
    job.close()
    for thread in threads:
        thread.join(WAIT)
    for frames in found:
        assert [f.kind for f in frames if f.kind != "preview"] == ["result", "refined", "refined"]
    assert [f.kind for f in job] == ["result", "refined", "refined"]


# Cancelling.


def test_cancel_stops_before_the_next_call_and_leaves_everything_as_it_was(updates, tmp_path):
    live = session(folder=tmp_path / "s")
    before, files = live.pixels, sorted(tmp_path.rglob("*"))
    gate, called = Gate("step 2"), Event()
    job = live.submit(painted(before), progress=gate)
    job.add_done_callback(lambda _: called.set())
    gate.wait()
    assert job.running()
    assert len(updates) == 1
    assert job.cancel()
    assert job.cancel()
    gate.go.set()
    with pytest.raises(CancelledError):
        job.result(WAIT)
    assert len(updates) == 1
    assert called.wait(WAIT)
    assert job.cancelled()
    assert job.cancel()
    assert [f.kind for f in job] == ["preview"]
    assert (len(live.versions), live.position) == (1, 0)
    assert np.array_equal(live.pixels, before)
    assert sorted(tmp_path.rglob("*")) == files
    live.close()


def test_what_waits_is_cancelled_at_once():
    live, gate = session(), Gate("step 1")
    running = live.submit(painted(live.pixels), progress=gate, refine="off")
    gate.wait()
    waiting = live.submit(painted(live.pixels, 20, 3), join=False)
    assert waiting.cancel()
    assert waiting.cancelled()
    assert list(waiting) == []
    gate.go.set()
    running.result(WAIT)
    assert not running.cancel()
    assert len(live.versions) == 2


@pytest.mark.parametrize("first", [0, 1])
def test_undo_stops_the_job_and_goes_back(first, updates):
    live, gate = session(), Gate("step 2")
    before = live.pixels
    for _ in range(first):
        live.edit(painted(before, 2, 2))
    updates.clear()
    job = live.submit(painted(live.pixels), progress=gate)
    gate.wait()
    raised = []

    def undo():
        try:
            live.undo()
        except Exception as error:
            raised.append(type(error).__name__)

    thread = Thread(target=undo)
    thread.start()
    while not job.stopping:
        pass
    gate.go.set()
    thread.join(WAIT)
    assert raised == ([] if first else ["UndoError"])
    assert len(updates) == 1
    assert job.cancelled()
    assert np.array_equal(live.pixels, before)


# Joining.


def test_a_newer_edit_takes_over_the_strokes_of_those_that_are_not_done():
    live, plain, gate = session(), session(), Gate("step 2")
    start = live.pixels
    running = live.submit(painted(start, 2, 2, 4), progress=gate)
    gate.wait()
    waiting = live.submit(painted(start, 20, 20, 4))
    newest = live.submit(painted(start, 4, 4, 4, (0, 255, 0)), refine="off")
    assert waiting.cancelled()
    gate.go.set()
    edited = newest.result(WAIT)
    assert running.cancelled()
    assert len(live.versions) == 2
    drawn = painted(painted(painted(start, 2, 2, 4), 20, 20, 4), 4, 4, 4, (0, 255, 0))
    assert np.array_equal(live.pixels, np.asarray(plain.edit(drawn).image))
    assert np.array_equal(edited.region.mask[0], (drawn != start).any(-1))


def test_an_edit_that_was_done_in_time_is_not_made_again():
    live, plain, gate = session(), session(), Gate("decoding")
    start = live.pixels
    first = live.submit(painted(start, 2, 2, 4), progress=gate, refine="off")
    gate.wait()
    second = live.submit(painted(start, 20, 20, 4), refine="off")
    gate.go.set()
    second.result(WAIT)
    assert not first.cancelled()
    assert len(live.versions) == 3
    plain.edit(painted(start, 2, 2, 4))
    assert np.array_equal(live.pixels, np.asarray(plain.edit(painted(plain.pixels, 20, 20, 4)).image))


def test_without_joining_edits_come_one_after_the_other():
    live, plain = session(), session()
    start = live.pixels
    places = [(2, 2), (20, 20), (4, 20)]
    jobs = [live.submit(painted(start, *at, 4), refine="off", join=False) for at in places]
    for job, at in zip(jobs, places, strict=True):
        expected = np.asarray(plain.edit(painted(plain.pixels, *at, 4)).image)
        assert np.array_equal(np.asarray(job.result(WAIT).image), expected)
    assert [version.number for version in live.versions] == [0, 1, 2, 3]


def test_an_edit_of_another_kind_comes_after():
    live, gate = session(), Gate("step 2")
    mask = np.zeros(live.size, bool)
    mask[20:25, 20:25] = True
    first = live.submit(painted(live.pixels, 2, 2), progress=gate, refine="off")
    gate.wait()
    second = live.submit(mask=mask, inpaint=True, refine="off")
    gate.go.set()
    second.result(WAIT)
    assert not first.cancelled()
    assert [version.facts["edit"] for version in live.versions] == ["photograph", "edit", "inpaint"]


def test_words_and_options_are_the_newer_ones_where_they_are_given():
    def drawing(at, **given):
        drawn = np.zeros((8, 8), bool)
        drawn[at, at] = True
        mask = given.pop("mask", drawn.astype(float))
        pixels = np.full((8, 8, 3), at, np.uint8)
        return Drawing(Mock(), Mock(), pixels, drawn, mask, Asked(**given), None, None, progress=print)

    older, newer = (
        drawing(1, prompt="a", negative="b", strength=0.5, areas=(1,), blend="fade"),
        drawing(2, prompt="c", areas=(2,)),
    )
    both = newer.joined(older)
    assert both.asked == Asked(prompt="c", negative="b", strength=0.5, areas=(1, 2), blend="fade")
    assert np.argwhere(both.mask).tolist() == np.argwhere(both.drawn).tolist() == [[1, 1], [2, 2]]
    assert (both.pixels[1, 1, 0], both.pixels[2, 2, 0]) == (1, 2)
    assert drawing(1, mask=None).joined(older) is None
    assert drawing(2, mask=None, prompt="d").joined(drawing(1, mask=None, prompt="a")).asked.prompt == "d"


def test_strokes_on_an_older_version_go_on_the_current_picture():
    live, plain = session(), session()
    start = live.pixels
    for each in (live, plain):
        each.edit(painted(start, 2, 2, 4))
    found = live.submit(painted(start, 20, 20, 4), base=0, refine="off").result(WAIT)
    assert np.array_equal(live.pixels, np.asarray(plain.edit(painted(plain.pixels, 20, 20, 4)).image))
    assert found.region.mask.sum() == 16


# Errors.


def test_bad_input_is_refused_before_anything_waits():
    live = session()
    for error, given in (
        (ImageError, {"image": np.zeros((8, 8, 3), np.uint8)}),
        (ImageError, {"mask": np.zeros(live.size, bool)}),
        (SchedulerError, {"image": painted(live.pixels), "strength": 2}),
        (OptionError, {"image": painted(live.pixels), "threshold": -1}),
        (OptionError, {"image": painted(live.pixels), "refine": "much"}),
        (OptionError, {"image": painted(live.pixels), "refine": -1.0}),
        (OptionError, {"image": painted(live.pixels), "base": 7}),
        (OptionError, {"inpaint": True}),
    ):
        with pytest.raises(error):
            live.submit(**given)
    assert len(live.versions) == 1
    assert not live.worker._turns


def test_what_goes_wrong_is_the_exception_of_the_job_and_the_next_one_works(monkeypatch):
    live, before = session(), Calls.update
    monkeypatch.setattr(Calls, "update", Mock(side_effect=MemoryError("no room")))
    job = live.submit(painted(live.pixels))
    assert isinstance(job.exception(WAIT), MemoryError)
    with pytest.raises(MemoryError, match="no room"):
        list(job)
    assert len(live.versions) == 1
    monkeypatch.setattr(Calls, "update", before)
    assert live.submit(painted(live.pixels)).result(WAIT).changed


def test_a_closed_session_takes_no_jobs_and_stops_those_it_has(tmp_path):
    live, gate = session(folder=tmp_path / "s"), Gate("step 2")
    job = live.submit(painted(live.pixels), progress=gate)
    gate.wait()
    thread = Thread(target=live.close)
    thread.start()
    while not job.stopping:
        pass
    gate.go.set()
    thread.join(WAIT)
    assert job.cancelled()
    with pytest.raises(SessionError, match="closed"):
        live.submit(painted(live.pixels))
    branch = live.branch()
    assert branch.submit(painted(live.pixels), refine="off").result(WAIT).changed


# One worker for many sessions and threads.


class Noted(Task):
    def __init__(self, name, done, until=None):
        self.name, self.done, self.until = name, done, until

    def run(self, job):
        if self.until:
            assert self.until.wait(WAIT)
        self.done.append(self.name)
        return self.name


def test_sessions_take_turns():
    worker, done, go = Worker(torch.device("cpu")), [], Event()
    jobs = [worker.submit("a", Noted("a0", done, go), join=False)]
    jobs += [worker.submit("a", Noted(f"a{i}", done), join=False) for i in (1, 2)]
    jobs += [worker.submit("b", Noted(f"b{i}", done), join=False) for i in (0, 1)]
    go.set()
    assert [job.result(WAIT) for job in jobs] == ["a0", "a1", "a2", "b0", "b1"]
    assert done in (["a0", "a1", "b0", "a2", "b1"], ["a0", "b0", "a1", "b1", "a2"])


def test_too_many_jobs_are_refused():
    worker, done, go = Worker(torch.device("cpu")), [], Event()
    running = worker.submit("a", Noted("first", done, go), join=False)
    while not running.running():
        pass
    jobs = [worker.submit("a", Noted(i, done), join=False) for i in range(MOST)]
    with pytest.raises(SessionError, match=f"{MOST} edits wait"):
        worker.submit("b", Noted("late", done), join=False)
    worker.cancel_all("a")
    go.set()
    assert running.result(WAIT) == "first"
    assert all(job.cancelled() for job in jobs)
    assert worker.submit("b", Noted("late", done), join=False).result(WAIT) == "late"


def test_threads_may_submit_at_the_same_time():
    live = session()
    start, jobs = live.pixels, []

    def submit(left):
        jobs.append(live.submit(painted(start, 4, left, 3), base=0, refine="off"))

    threads = [Thread(target=submit, args=(left,)) for left in range(0, 25, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    for job in jobs:
        list(job)
    assert jobs[-1].done()
    made = [job for job in jobs if not job.cancelled()]
    assert len(live.versions) == 1 + len(made)
    where = np.logical_or.reduce([job.result().region.mask[0] for job in made])
    expected = np.logical_or.reduce([(painted(start, 4, left, 3) != start).any(-1) for left in range(0, 25, 4)])
    assert np.array_equal(where, expected), "no stroke is lost"
    outside = ~dilate(expected[None], live.border)[0]
    assert np.array_equal(live.pixels[outside], start[outside])


# Generators.


def test_generators_have_jobs_too():
    live, plain, gate = upscaler().open(picture("ddpm")), upscaler().open(picture("ddpm")), Gate("updating")
    source, before = live.source, live.pixels
    with pytest.raises(ImageError):
        live.submit(np.zeros((8, 8, 3), np.uint8))
    first = live.submit(painted(source), progress=gate)
    gate.wait()
    second = live.submit(painted(source, 20, 3))
    gate.go.set()
    frame, *others = second
    assert first.cancelled()
    assert not others
    assert np.array_equal(live.pixels, np.asarray(plain.edit(painted(painted(source), 20, 3)).image))
    left, top, right, bottom = frame.rectangle
    before[top:bottom, left:right] = frame.pixels
    assert (frame.kind, frame.version) == ("result", 1)
    assert np.array_equal(before, live.pixels)
    assert frame.done > 0
