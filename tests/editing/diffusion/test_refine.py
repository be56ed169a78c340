"""Refinement: the dense result takes the place of the approximate one, when nothing else is to be done."""

import math
from threading import Event
from unittest.mock import Mock

import numpy as np
import pytest

import retouch
from editing.diffusion.test_session import editor, opened
from editing.live import SPARSE, WAIT, Gate, session
from pipelines import painted
from retouch import OptionError, UndoError
from retouch.editing.calls import Calls
from retouch.editing.diffusion import refine
from retouch.editing.diffusion.estimate import Calibration, StepCheck
from retouch.editing.diffusion.refine import Dense
from retouch.editing.manifest import Manifest
from retouch.editing.session import Session
from retouch.editing.stages import stages_of

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def decibels(a, b):
    error = np.square(np.asarray(a).astype(float) - np.asarray(b)).mean()
    return math.inf if not error else 10 * math.log10(255**2 / error)


@pytest.mark.parametrize("name", ["ddpm", "sd", "inpaint", "kontext"])
def test_the_refined_picture_is_the_dense_one(name):
    live = session(name)
    before, drawn = live.pixels, painted(live.pixels)
    expected = live.reference(drawn)
    job = live.submit(drawn, refine="dense")
    frames = [frame for frame in job if frame.kind != "preview"]
    inside = expected.region.mask[0]
    approximate = before.copy()
    for frame in frames[:1]:
        left, top, right, bottom = frame.rectangle
        approximate[top:bottom, left:right] = frame.pixels
    assert np.array_equal(approximate, np.asarray(job.result().image))
    assert [frame.kind for frame in frames] == ["result", "refined", "refined"]
    for frame in frames[1:]:
        left, top, right, bottom = frame.rectangle
        approximate[top:bottom, left:right] = frame.pixels
    assert np.array_equal(approximate, live.pixels)
    assert decibels(live.pixels[inside], np.asarray(expected.image)[inside]) >= 60
    assert decibels(live.pixels[inside], np.asarray(job.result().image)[inside]) < 60
    outside = np.asarray(expected.image) == before
    assert np.array_equal(live.pixels[outside], before[outside])
    assert (live.version.number, len(live.versions), live.version.facts["refined"]) == (1, 2, "dense")
    assert np.array_equal(np.asarray(live.undo()), before)


def test_a_step_computes_more_around_the_edit_and_stops():
    live = session()
    frames = list(live.submit(painted(live.pixels), refine="step"))
    assert [frame.kind for frame in frames[-2:]] == ["result", "refined"]
    assert frames[-1].done > frames[-2].done
    assert live.version.facts["refined"] == "step"


def test_a_refined_version_takes_little_more_memory_than_an_edit_and_can_be_edited():
    live, plain = session(), session()
    drawn = painted(live.pixels)
    list(live.submit(drawn, refine="dense"))
    plain.edit(drawn)
    assert live.version.nbytes == plain.version.nbytes
    second = painted(live.pixels, 20, 20)
    expected = live.reference(second)
    list(live.submit(second, refine="dense"))
    inside = expected.region.mask[0]
    assert decibels(live.pixels[inside], np.asarray(expected.image)[inside]) >= 60


@pytest.mark.parametrize(("error", "stages"), [(1.0, 0), (3.0, 2)])
def test_an_error_bound_decides_by_the_estimate(error, stages, monkeypatch):
    live = session()
    monkeypatch.setattr(StepCheck, "error", error)
    frames = list(live.submit(painted(live.pixels), refine=2.0))
    assert [frame.kind for frame in frames].count("refined") == stages


def test_the_estimate_is_made_when_nothing_waits(monkeypatch):
    live, asked = session(), []
    monkeypatch.setattr(live, "calibration", lambda: asked.append(live.pixels) or Calibration(1.0, 0.0))
    job = live.submit(painted(live.pixels))
    list(job)
    assert len(asked) in (1, 2)
    assert np.array_equal(asked[0], np.asarray(job.result().image))


def test_what_is_exact_or_dense_already_is_left_alone(monkeypatch):
    monkeypatch.setattr(refine.Refinement, "refine", Mock(side_effect=AssertionError))
    exact, whole = opened("ddpm", "exact"), session()
    for live, drawn in ((exact, painted(exact.pixels)), (whole, 255 - whole.pixels)):
        assert list(live.submit(drawn, refine="dense"))[-1].kind == "result"


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (None, ([], None)),
        ("off", ([], None)),
        ("step", (["step"], None)),
        ("dense", (["step", "dense"], None)),
        (3, (["step", "dense"], 3.0)),
    ],
)
def test_what_refine_says(wanted, found):
    assert stages_of(wanted) == found


@pytest.mark.parametrize("wanted", ["all", -1, math.nan])
def test_what_refine_cannot_say(wanted):
    with pytest.raises(OptionError, match="refine is 'off', 'step', 'dense' or an error in grey levels"):
        stages_of(wanted)


# Interruptions.


class Held:
    """Holds the dense pass of a refinement at its first call."""

    def __init__(self, monkeypatch):
        self.reached, self.go, self.count = Event(), Event(), 0
        update = Dense.update

        def held(dense, *args, **kwargs):
            self.count += 1
            self.reached.set()
            assert self.go.wait(WAIT)
            return update(dense, *args, **kwargs)

        monkeypatch.setattr(Dense, "update", held)


def test_undo_does_not_wait_for_a_refinement_and_ends_it(monkeypatch):
    live, held = session(), Held(monkeypatch)
    before = live.pixels
    job = live.submit(painted(before), refine="dense")
    assert held.reached.wait(WAIT)
    first = job.result()
    assert np.array_equal(np.asarray(live.undo()), before)
    held.go.set()
    list(job)
    assert held.count == 1
    assert not job.cancelled()
    redone = np.asarray(live.redo())
    assert live.version.facts["refined"] == "step"
    assert not np.array_equal(redone, before)
    assert first.changed


def test_cancel_ends_a_refinement_and_the_result_stays(monkeypatch):
    live, held = session(), Held(monkeypatch)
    job = live.submit(painted(live.pixels), refine="dense")
    assert held.reached.wait(WAIT)
    assert job.cancel()
    held.go.set()
    list(job)
    assert held.count == 1
    assert (live.position, live.version.facts["refined"]) == (1, "step")
    assert not job.cancel()
    with pytest.raises(UndoError):
        live.redo()


def test_a_new_edit_of_the_session_takes_its_place(monkeypatch):
    live, held = session(), Held(monkeypatch)
    first = live.submit(painted(live.pixels), refine="dense")
    assert held.reached.wait(WAIT)
    second = live.submit(painted(live.pixels, 20, 20), refine="off")
    held.go.set()
    list(first)
    second.result(WAIT)
    assert held.count == 1
    assert [version.revision for version in live.versions] == [0, 1, 0]


def test_an_edit_of_another_session_comes_first_and_the_refinement_begins_anew(monkeypatch):
    live, other, held = session(), session(), Held(monkeypatch)
    expected = live.reference(painted(live.pixels))
    first = live.submit(painted(live.pixels), refine="dense")
    assert held.reached.wait(WAIT)
    gate = Gate("step 1")
    second = other.submit(painted(other.pixels), refine="off", progress=gate)
    held.go.set()
    gate.wait()
    assert (live.version.revision, held.count) == (1, 1)
    gate.go.set()
    second.result(WAIT)
    list(first)
    assert live.version.revision == 2
    inside = expected.region.mask[0]
    assert decibels(live.pixels[inside], np.asarray(expected.image)[inside]) >= 60


def test_a_refinement_waits_while_a_session_edits_without_a_job(monkeypatch):
    live, held = session(), Held(monkeypatch)
    with live.worker.claimed():
        job = live.submit(painted(live.pixels), refine="dense")
        job.result(WAIT)
        assert live.version.revision == 0
    held.go.set()
    assert list(job)[-1].kind == "refined"


def test_what_goes_wrong_in_a_refinement_is_raised_by_its_frames_and_the_result_stays(monkeypatch):
    live = session()
    monkeypatch.setattr(Session, "replace", Mock(side_effect=OSError("full")))
    job = live.submit(painted(live.pixels), refine="step")
    with pytest.raises(OSError, match="full"):
        list(job)
    assert np.array_equal(live.pixels, np.asarray(job.result().image))


# Folders.


def test_a_folder_holds_the_refined_version_in_place_of_the_other(tmp_path):
    folder = tmp_path / "s"
    with session(folder=folder) as live:
        drawn = painted(live.pixels)
        expected = live.reference(drawn)
        list(live.submit(drawn, refine="dense"))
        refined = live.pixels
    assert sorted(f.name for f in (folder / "versions").iterdir()) == ["0000", "0001-3"]
    entry = Manifest.read(folder).version
    assert (entry.number, entry.revision, entry.facts["refined"]) == (1, 3, "dense")
    with retouch.open(folder, editor=editor("ddpm", SPARSE)) as again:
        assert np.array_equal(again.pixels, refined)
        inside = expected.region.mask[0]
        assert decibels(again.pixels[inside], np.asarray(expected.image)[inside]) >= 60
        assert (again.position, [v.number for v in again.versions]) == (1, [0, 1])
        again.submit(painted(again.pixels, 20, 20), refine="step").result(WAIT)
        assert again.version.number == 2


def test_a_process_that_stops_while_it_replaces_leaves_the_version_as_it_was(tmp_path, monkeypatch):
    folder = tmp_path / "s"
    with session(folder=folder) as live:
        first = live.edit(painted(live.pixels))
        before = live.version
        monkeypatch.setattr(type(live.archive), "commit", Mock(side_effect=OSError("full")))
        calls = Calls(live.store, live.versions[0].snapshots, None)
        with pytest.raises(OSError, match="full"):
            live.replace(before, calls, dict(before.tensors), dict(before.facts))
        monkeypatch.undo()
        assert live.version is before
    with retouch.open(folder, editor=editor("ddpm", SPARSE)) as again:
        assert np.array_equal(again.pixels, np.asarray(first.image))
        assert sorted(f.name for f in (folder / "versions").iterdir()) == ["0000", "0001-1"]
