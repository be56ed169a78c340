"""Edits of canvases in the background: frames of the canvas, newest strokes first, viewports prepared when idle."""

from dataclasses import replace
from threading import Timer

import numpy as np
import pytest

from editing.canvas.test_canvas import canvas, edited, priced, stroke, ways
from editing.diffusion.test_session import editor
from editing.live import SPARSE, WAIT, Gate
from retouch import SessionError
from retouch.editing.diffusion.canvases import Canvases


def test_a_job_makes_what_an_edit_makes_and_shows_it():
    shown, other = canvas(), canvas()
    drawn = stroke(shown, 50, 60)
    plan = ways(shown, drawn, "new")
    job = shown.submit(drawn, plan=plan, refine="off")
    found = job.result(WAIT)
    other.edit(drawn, plan=plan)
    assert np.array_equal(shown.pixels, other.pixels)
    frames = list(job)
    left, top, right, bottom = frames[-1].rectangle
    assert frames[-1].kind == "result"
    assert frames[-1].rectangle == found.rectangle
    assert np.array_equal(frames[-1].pixels, shown.pixels[top:bottom, left:right])
    assert frames[-1].version == shown.version.number


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize(("way", "first"), [("new", "recording step 1"), ("dense", "encoding")])
def test_previews_are_of_the_canvas(way, first, scale):
    shown = canvas()
    drawn, seen = stroke(shown, 50, 60), []
    before = shown.pixels
    job = shown.submit(drawn, plan=ways(shown, drawn, way, scale), progress=(gate := Gate(first)))
    gate.wait()
    job.watch(seen.append)
    gate.go.set()
    job.result(WAIT)
    previews = [frame for frame in seen if frame.kind == "preview"]
    assert len(previews) == 3
    for frame in previews:
        left, top, right, bottom = frame.rectangle
        assert frame.pixels.shape == (bottom - top, right - left, 3)
        assert (left, top, right, bottom) == (60, 50, 66, 56)
    assert not np.array_equal(previews[-1].pixels, before[50:56, 60:66])


def test_previews_of_tiles_are_of_the_part_that_each_sees():
    shown, seen = canvas(), []
    mask = np.zeros(shown.size, np.bool_)
    mask[10:80, 20:90] = True
    job = shown.submit(mask=mask, plan="tiles", progress=(gate := Gate("recording step 1")))
    gate.wait()
    job.watch(seen.append)
    gate.go.set()
    plan = job.result(WAIT).plan
    previews = [frame for frame in seen if frame.kind == "preview"]
    assert len(previews) == 3 * len(plan.chosen.tiles)
    boxes = {frame.rectangle for frame in previews}
    assert len(boxes) == len(plan.chosen.tiles)
    covered = np.zeros(shown.size, np.bool_)
    for left, top, right, bottom in boxes:
        covered[top:bottom, left:right] = True
    assert np.array_equal(covered, mask)


def test_what_an_edit_takes_is_predicted_while_another_is_made():
    shown = canvas()
    drawn = stroke(shown, 50, 60)
    gate = Gate("recording step 1")
    job = shown.submit(drawn, plan=ways(shown, drawn, "new"), progress=gate)
    gate.wait()
    mask = np.full((6, 6), 255, np.uint8)
    predicted = shown.predicted(mask, (60, 50, 66, 56))
    assert predicted > shown.predicted(mask, (60, 50, 66, 56), strength=0.4) > 0
    gate.go.set()
    job.result(WAIT)


@pytest.mark.parametrize("scale", [1, 2])
def test_the_refined_canvas_is_the_dense_one_and_is_taken_back_as_one(scale, tmp_path):
    shown, dense = canvas(), canvas()
    before, drawn = shown.pixels, stroke(shown, 50, 60)
    shown.save(tmp_path / "canvas")
    frames = list(shown.submit(drawn, plan=ways(shown, drawn, "new", scale), refine="dense"))
    refined = [frame for frame in frames if frame.kind != "preview"]
    assert [frame.kind for frame in refined] == ["result", "refined", "refined"]
    dense.edit(drawn, plan=ways(dense, drawn, "dense", scale))
    rough, errors = before.copy(), []
    for frame in refined:
        left, top, right, bottom = frame.rectangle
        rough[top:bottom, left:right] = frame.pixels
        assert frame.version == 1
        errors.append(np.abs(rough.astype(int) - dense.pixels).max())
    assert errors[-1] <= 2 < errors[0]
    assert np.array_equal(rough, shown.pixels)
    assert (len(shown.versions), shown.version.facts["refined"]) == (2, "dense")
    view = shown.pool.views[0]
    assert view.session.version.facts["refined"] == "dense"
    assert view.versions[1] == view.session.version.number
    shown.close()
    again = Canvases(editor("ddpm", SPARSE)).restore(tmp_path / "canvas")
    assert np.array_equal(again.pixels, rough)
    assert np.array_equal(np.asarray(again.undo()), before)


@pytest.mark.parametrize("refine", ["dense", "off"])
def test_what_a_job_made_densely_is_recorded_when_nothing_waits(refine):
    shown = priced(canvas())
    shown.planner.costs.record = 1.2
    drawn = stroke(shown, 50, 60)
    frames = list(shown.submit(drawn, refine=refine))
    assert [frame.kind for frame in frames if frame.kind != "preview"] == ["result"]
    assert len(shown.pool.views) == (refine == "dense")
    shown.submit(stroke(shown, 50, 60, colour=(0, 9, 0)), refine=refine).result(WAIT)
    assert shown.version.facts["way"] == ("sparse" if refine == "dense" else "new")


def test_a_job_that_is_followed_by_a_recording_does_not_record_first():
    shown = priced(canvas())
    shown.planner.costs.record = 1.2
    for place in (50, 52):
        shown.edit(stroke(shown, place, 60), plan="dense")
    drawn = stroke(shown, 54, 60)
    assert shown.plan(drawn).chosen.way == "new"
    shown.submit(drawn, refine="step").result(WAIT)
    assert shown.version.facts["way"] == "dense"


def test_what_is_edited_again_is_not_refined():
    shown = canvas()
    drawn = stroke(shown, 50, 60)
    first = shown.submit(drawn, plan=ways(shown, drawn, "new"), refine="dense")
    first.result(WAIT)
    edited(shown, 52, 64)
    state = shown.pixels
    list(first)
    assert np.array_equal(shown.pixels, state)
    assert all("refined" not in version.facts for version in shown.versions)


def test_newer_strokes_join_older_ones():
    shown = canvas()
    one = stroke(shown, 50, 60)
    gate = Gate("recording step 2")
    first = shown.submit(one, plan="whole", progress=gate)
    gate.wait()
    second = shown.submit(stroke(shown, 70, 80), plan="whole")
    gate.go.set()
    second.result(WAIT)
    assert first.cancelled()
    assert len(shown.versions) == 2
    before, after = shown.pixels, np.asarray(shown.undo())
    changed = (before != after).any(-1)
    assert changed[50:56, 60:66].any()
    assert changed[70:76, 80:86].any()


def test_what_is_cancelled_leaves_the_canvas_as_it_was():
    shown = canvas()
    before, gate = shown.pixels, Gate("recording step 2")
    job = shown.submit(stroke(shown, 50, 60), plan="whole", progress=gate)
    gate.wait()
    job.cancel()
    gate.go.set()
    assert list(job) == []
    assert job.cancelled()
    assert np.array_equal(shown.pixels, before)
    assert not shown.pool.views


def test_a_viewport_is_prepared_when_nothing_else_is_done():
    shown = canvas()
    job = shown.prepare((50, 40, 80, 70))
    list(job)
    assert len(shown.pool.views) == 1
    assert len(shown.versions) == 1
    found = edited(shown, 50, 60)
    assert "record" not in found.seconds
    list(shown.prepare((50, 40, 80, 70)))
    assert len(shown.pool.views) == 1, "it is there already"


def test_an_edit_does_not_wait_for_a_preparation():
    shown = canvas()
    opener, gate, tries = shown._sessions.opener, Gate("recording step 2"), []

    class Held:
        def open(self, pixels, progress, **options):
            tries.append(pixels)
            return opener.open(pixels, progress=gate if len(tries) == 1 else progress, **options)

    shown._sessions = replace(shown._sessions, opener=Held())
    job = shown.prepare()
    gate.wait()
    Timer(0.2, gate.go.set).start()
    edited(shown, 50, 60)
    list(job)
    assert len(tries) >= 3, "begun anew"
    assert [view.scaling.sides for view in shown.pool.views] == [(32, 32), (100, 140)]


def test_a_closed_canvas_takes_no_jobs():
    shown = canvas()
    shown.close()
    with pytest.raises(SessionError, match="closed"):
        shown.submit(stroke(shown, 50, 60))


def test_an_edit_is_refined_although_another_viewport_is_prepared():
    shown = canvas()
    drawn = stroke(shown, 50, 60)
    job = shown.submit(drawn, plan=ways(shown, drawn, "new"), refine="dense")
    job.result(WAIT)
    prepared = shown.prepare((0, 0, 32, 32))
    assert [frame.kind for frame in job if frame.kind != "preview"][-1] == "refined"
    list(prepared)
    assert shown.version.facts["refined"] == "dense"
    assert shown.is_prepared(shown.viewport((0, 0, 32, 32)))
