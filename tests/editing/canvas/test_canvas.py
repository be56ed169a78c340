"""Edits of pictures of any size: nothing outside changes, viewports follow each other, undo restores every bit."""

from dataclasses import replace
from math import ceil

import numpy as np
import pytest
from PIL import Image

import retouch
from editing.diffusion.test_session import distance, editor
from editing.live import SPARSE
from pipelines import painted
from retouch import FallbackWarning, ImageError, OptionError, StoreError, UndoError

STEPS = {"steps": 3, "strength": 1.0, "enlarger": "lanczos"}
"""Of every canvas here, whose model sees 32x32 pixels."""


def photograph(height=100, width=140, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (-(-height // 10), -(-width // 10), 3), np.uint8)
    return coarse.repeat(10, 0).repeat(10, 1)[:height, :width]


def canvas(picture=None, **options):
    picture = photograph() if picture is None else picture
    return editor("ddpm", SPARSE).canvas(picture, **{**STEPS, **options})


def test_what_an_editor_keeps_holds_for_its_canvases():
    made = editor("ddpm", SPARSE, memory=1 << 30, history=1 << 20).canvas(photograph(), **STEPS)
    assert (made.store.budget, made.store.history) == (1 << 30, 1 << 20)


class Costs:
    """Those of a machine on which a sparse edit takes a tenth of a recording."""

    record = 1.0

    def dense(self, steps):
        return 1.05

    def edit(self, mask, steps=1.0):
        return 0.1 + 0.1 * float(mask.mean())

    def follow(self, mask):
        return 0.01

    def learn(self, took):
        pass


def priced(shown):
    """A canvas whose costs are known."""
    shown.planner = replace(shown.planner, costs=Costs())
    return shown


def ways(shown, drawn, way, scale=1):
    """The candidate of a way at a scale."""
    return next(c for c in shown.plan(drawn).candidates if c.way == way and c.viewport.scale == scale)


def edited(shown, top, left, **options):
    """An edit where it is recorded, or else in a new viewport of the canvas's scale."""
    drawn = stroke(shown, top, left, **options)
    found = shown.plan(drawn).candidates
    fit = [each for each in found if each.way == "sparse"] or [each for each in found if each.way == "new"]
    return shown.edit(drawn, plan=next((each for each in fit if each.viewport.scale == 1), fit[-1]))


def stroke(shown, top, left, size=6, colour=(255, 0, 40)):
    return painted(shown.pixels, top, left, size, colour)


def outside(found, size):
    mask = np.ones(size, np.bool_)
    left, top, right, bottom = found.rectangle
    mask[top:bottom, left:right] = False
    return mask


@pytest.mark.parametrize("place", [(50, 60), (0, 0), (94, 134), (0, 70)])
def test_an_edit_changes_its_region_and_nothing_else(place):
    shown = canvas()
    before = shown.pixels
    found = shown.edit(stroke(shown, *place))
    changed = (shown.pixels != before).any(-1)
    assert changed[place[0] : place[0] + 6, place[1] : place[1] + 6].any()
    assert not changed[outside(found, before.shape[:2])].any()
    assert np.array_equal(np.asarray(found.image), shown.image.crop(found.rectangle))


def test_the_second_edit_in_a_place_records_nothing():
    shown = priced(canvas())
    first = edited(shown, 50, 60)
    second = shown.edit(stroke(shown, 52, 64, 9, (0, 200, 0)))
    assert "record" in first.seconds
    assert second.plan.chosen.way == "sparse"
    assert "record" not in second.seconds
    assert len(shown.pool.views) == 1


@pytest.mark.parametrize("way", ["new", "whole", "dense"])
def test_every_way_keeps_to_its_region(way):
    shown = canvas()
    before = shown.pixels
    found = shown.edit(stroke(shown, 50, 60), plan=way)
    assert found.plan.chosen.way == way
    changed = (shown.pixels != before).any(-1)
    assert changed.any()
    assert not changed[outside(found, before.shape[:2])].any()
    assert len(shown.pool.views) == (way != "dense")


def test_dense_edits_are_what_recorded_ones_are_under_exact():
    whole, other = (editor("ddpm", "exact").canvas(photograph(32, 32), **STEPS) for _ in range(2))
    drawn = stroke(whole, 10, 12)
    whole.edit(drawn, plan=ways(whole, drawn, "dense"))
    other.edit(drawn, plan=ways(other, drawn, "whole"))
    assert (whole.pixels != photograph(32, 32)).any()
    assert distance(whole.pixels, other.pixels) <= 1


def test_where_a_dense_edit_comes_again_it_is_recorded():
    shown = priced(canvas())
    shown.planner.costs.record = 1.2
    drawn = stroke(shown, 50, 60)
    assert shown.plan(drawn).chosen.way == "dense"
    shown.edit(drawn)
    assert shown.plan(stroke(shown, 51, 61)).chosen.way == "new"
    assert shown.plan(stroke(shown, 10, 10)).chosen.way == "dense"


def test_it_is_recorded_when_the_edits_before_would_have_paid_for_that():
    shown = priced(canvas())
    shown.planner.costs.record, shown.planner.costs.edit = 1.2, lambda mask, steps=1.0: 0.6
    chosen = []
    for red in range(4):  # 0.75 more than a dense one, and 0.45 less each time afterwards
        drawn = stroke(shown, 50, 60, colour=(60 * red, 0, 40))
        chosen.append(shown.plan(drawn).chosen.way)
        shown.edit(drawn)
    assert chosen == ["dense", "dense", "new", "sparse"]


def test_what_others_changed_is_priced_with_the_edit_that_computes_it():
    shown = priced(canvas())
    edited(shown, 50, 60)
    (view,) = shown.pool.views
    seen, drawn = view.scaling, stroke(shown, 50, 72)
    assert next(c.seconds for c in shown.plan(drawn).candidates if c.view == view.number) == pytest.approx(0.2)
    shown.edit(stroke(shown, 52, 62), plan="dense")
    found = next(c for c in shown.plan(drawn).candidates if c.view == view.number)
    assert found.viewport == seen
    assert 0.11 < found.seconds < 0.13, "encoded by itself, and then a part of the viewport that holds both"


def test_a_new_viewport_that_is_recorded_already_costs_no_recording():
    shown = priced(canvas())
    first = edited(shown, 50, 60)
    again = {each.way: each for each in shown.plan(stroke(shown, 50, 60, colour=(0, 9, 0))).candidates
             if each.viewport == first.plan.chosen.viewport}  # fmt: skip
    assert again["new"].seconds == again["sparse"].seconds < 1
    assert again["new"].record == 0


def test_undo_and_redo_restore_every_bit_across_viewports():
    shown = canvas()
    states = [shown.pixels]
    for place in ((10, 10), (80, 120), (12, 12), (82, 118)):
        edited(shown, *place)
        states.append(shown.pixels)
    assert len(shown.pool.views) == 2
    for state in reversed(states[:-1]):
        assert np.array_equal(np.asarray(shown.undo()), state)
    with pytest.raises(UndoError):
        shown.undo()
    for state in states[1:]:
        assert np.array_equal(np.asarray(shown.redo()), state)
    shown.go(2)
    assert np.array_equal(shown.pixels, states[2])
    shown.edit(stroke(shown, 40, 70))
    assert np.array_equal(np.asarray(shown.go(4)), states[4]), "another branch does not touch it"


def test_alpha_and_sixteen_bits_stay_outside():
    random = np.random.default_rng(1)
    levels = random.integers(0, 65536, (60, 70, 4)).astype(np.uint16)
    shown = canvas(levels)
    drawn = painted(shown.pixels, 20, 30, 6)
    found = shown.edit(drawn, mask=(np.arange(60)[:, None] // 6 == 4) & (np.arange(70) // 10 == 3))
    after = shown.picture.levels
    same = outside(found, (60, 70))
    assert after.dtype == np.uint16
    assert np.array_equal(after[..., 3], levels[..., 3])
    assert np.array_equal(after[same], levels[same])
    assert (after[~same] != levels[~same]).any()
    shown.undo()
    assert np.array_equal(shown.picture.levels, levels)


def test_a_branch_has_a_picture_of_its_own():
    shown = canvas()
    shown.edit(stroke(shown, 50, 60))
    twin, state = shown.branch(), shown.pixels
    twin.edit(stroke(twin, 52, 64))
    assert np.array_equal(shown.pixels, state)
    shown.undo()
    assert not np.array_equal(twin.pixels, shown.pixels)
    twin.undo()
    assert np.array_equal(twin.pixels, state)


def test_parts_with_a_box_are_the_same_as_the_whole():
    one, other = canvas(), canvas()
    drawn = stroke(one, 50, 60)
    one.edit(drawn)
    other.edit(drawn[40:80, 50:100], box=(50, 40, 100, 80))
    assert np.array_equal(one.pixels, other.pixels)


def test_inpainting_and_grey_masks():
    shown = canvas()
    before = shown.pixels
    mask = np.zeros((100, 140))
    mask[50:58, 60:70] = 1
    shown.inpaint(mask)
    filled = shown.pixels
    assert (filled != before)[50:58, 60:70].any()
    shown.undo()
    shown.edit(mask=0.7 * mask)
    assert not np.array_equal(shown.pixels, filled)


def test_the_plan_lists_ways_with_seconds_quality_and_a_reason():
    shown = canvas()
    drawn = stroke(shown, 50, 60)
    plan = shown.plan(drawn)
    assert {each.way for each in plan.candidates} == {"new", "whole", "dense"}
    assert all(each.seconds > 0 and 0 <= each.quality <= 1 for each in plan.candidates)
    assert "quality" in str(plan)
    assert plan.reason in str(plan)
    enlarged = [each for each in plan.candidates if each.way == "new" and each.viewport.scale > 1]
    found = shown.edit(drawn, plan=enlarged[0])
    assert found.plan.chosen == enlarged[0]
    assert shown.pool.views[0].scaling.scale > 1
    assert shown.plan(shown.pixels) is None


def test_what_is_enlarged_takes_the_detail_that_a_small_region_needs():
    small = canvas().planner
    wide = {each.viewport.scale: each.detail for each in canvas().plan(stroke(canvas(), 50, 60, 3)).candidates}
    assert wide[2.0] > wide[1.0] > wide[min(wide)]
    assert small.floor == 0.5


def test_what_is_enlarged_is_seen_with_something_around_it():
    shown = canvas()
    plan = shown.plan(stroke(shown, 50, 60, 6))
    context = {each.viewport.scale: each.context for each in plan.candidates if each.way == "new"}
    assert context[4.0] == pytest.approx(1 / 9), "one pixel of the nine that should be there"
    assert context[2.0] == pytest.approx(5 / 9)
    assert context[1.0] == 1
    assert plan.chosen.viewport.scale < 4


def test_bad_input_changes_nothing():
    shown = canvas()
    before = shown.pixels
    drawn = stroke(shown, 50, 60)
    with pytest.raises(ImageError, match="does not lie"):
        shown.edit(drawn, box=(100, 0, 200, 50))
    with pytest.raises(ImageError, match="different sizes"):
        shown.edit(drawn[:50])
    with pytest.raises(ImageError, match="different sizes"):
        shown.edit(drawn, box=(0, 0, 50, 50))
    with pytest.raises(OptionError, match="say where"):
        shown.edit(prompt="a")
    with pytest.raises(OptionError, match="there are new"):
        shown.edit(drawn, plan="sparse")
    with pytest.raises(retouch.PipelineError, match="takes no prompt"):
        shown.edit(drawn, prompt="a cat")
    assert np.array_equal(shown.pixels, before)
    assert len(shown.versions) == 1
    assert not shown.edit(before).changed


def test_no_room_for_a_viewport_is_said_before_anything_runs():
    with pytest.raises(StoreError, match=r"no room for 1 viewport.*MB"):
        retouch.Editor(editor("ddpm", SPARSE).model.pipe, memory=0).canvas(photograph(), disk=0, **STEPS)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (300, 2), (7, 5)])
def test_small_and_extreme_pictures_are_reflected_and_that_is_said(size):
    with pytest.warns(FallbackWarning, match="reflected"):
        shown = canvas(photograph(*size))
    drawn = shown.pixels
    drawn[-1, -1] = 255 - drawn[-1, -1]
    found = shown.edit(drawn)
    assert found.changed
    assert shown.pixels.shape == (*size, 3)


def test_a_picture_of_many_modes_is_opened():
    image = Image.fromarray(photograph()).convert("RGBA")
    image.putalpha(77)
    shown = canvas(image)
    assert shown.picture.alpha is not None
    assert (shown.picture.alpha == 77).all()


def test_a_viewport_follows_what_another_one_changed():
    shown = canvas()
    edited(shown, 50, 60)
    first = shown.pool.views[0]
    box = first.scaling.box
    top, left = box[0].stop - 7, box[1].stop - 9
    drawn = stroke(shown, top, left, 12, (0, 120, 200))
    far = [each for each in shown.plan(drawn).candidates if each.way == "new" and each.viewport.scale == 1]
    shown.edit(drawn, plan=far[0])
    assert len(shown.pool.views) == 2
    edited(shown, 51, 62)
    assert shown.version.facts["views"] == [first.number]
    seen, now = first.session.pixels, shown.picture.seen(box)
    assert np.array_equal(seen, now), "at scale 1 it shows what the canvas does"
    adopted = [version.facts["edit"] for version in first.session.versions]
    assert adopted == ["photograph", "edit", "adopted", "edit"]


def test_going_back_is_no_adopting():
    shown = canvas()
    edited(shown, 50, 60)
    edited(shown, 52, 62)
    shown.undo()
    edited(shown, 54, 64)
    assert [version.facts["edit"] for version in shown.pool.views[0].session.versions] == ["photograph"] + 3 * ["edit"]


def test_a_viewport_that_nothing_was_changed_in_stays_as_it_is():
    shown = canvas()
    edited(shown, 10, 10)
    edited(shown, 80, 120)
    edited(shown, 12, 12)
    assert len(shown.pool.views[-1].session.versions) == 3


def test_large_regions_are_drawn_in_overlapping_tiles():
    shown, mask = canvas(), np.zeros((100, 140), np.bool_)
    before = shown.pixels
    mask[20:75, 90:138] = True
    found = shown.edit(mask=mask, plan="tiles")
    assert len(shown.pool.views) == len(found.plan.chosen.tiles) > 4
    assert shown.version.facts["views"] == [view.number for view in shown.pool.views]
    changed = (shown.pixels != before).any(-1)
    assert changed[mask].mean() > 0.9
    assert not changed[outside(found, mask.shape)].any()
    for view in shown.pool.views:
        rows, columns = view.scaling.box
        seen = view.session.pixels[view.scaling.window]
        assert np.array_equal(seen, shown.pixels[rows, columns]), "all show what the canvas does"
    again = shown.edit(mask=mask, plan="tiles")
    assert "record" not in again.seconds
    shown.go(0)
    assert np.array_equal(shown.pixels, before)


def test_tiles_are_offered_where_no_viewport_holds_the_region():
    shown = canvas()
    mask = np.zeros((100, 140), np.bool_)
    mask[10:90, 10:130] = True
    found = shown.plan(mask=mask)
    assert {each.way for each in found.candidates} == {"new", "whole", "tiles", "dense"}
    assert found.chosen.way == "tiles"
    assert found.chosen.context == 1
    assert "tiles" not in {each.way for each in shown.plan(stroke(shown, 50, 60)).candidates}


def test_expanding_draws_a_border_and_keeps_what_is_inside():
    shown = canvas()
    edited(shown, 50, 60)
    states = [shown.pixels]
    found = shown.expand(left=8, top=4, plan="whole")
    assert shown.picture.size == (104, 148)
    assert found.rectangle[:2] == (0, 0)
    border = ceil(shown._border / found.plan.chosen.viewport.scale)
    inside = np.s_[4 + border :, 8 + border :]
    assert np.array_equal(shown.pixels[inside], states[0][border:, border:])
    states.append(shown.pixels)
    edited(shown, 56, 70)
    assert "views" in shown.version.facts
    assert len(shown.pool.views) == 2, "the first viewport moved with the picture"
    shown.undo()
    assert np.array_equal(shown.pixels, states[1])
    shown.undo()
    assert np.array_equal(np.asarray(shown.undo()), states[0])
    shown.go(3)
    assert np.array_equal(shown.pixels, states[1])


def test_what_cannot_be_expanded_leaves_the_canvas_as_it_was():
    shown = canvas()
    before = shown.pixels
    with pytest.raises(ImageError, match="expanded by pixels"):
        shown.expand(left=-1)
    with pytest.raises(retouch.PipelineError, match="takes no prompt"):
        shown.expand(right=9, prompt="a cat", plan="whole")
    assert np.array_equal(shown.pixels, before)
    assert len(shown.versions) == 1


def test_an_edit_that_cannot_be_kept_leaves_no_trace(monkeypatch):
    shown = canvas()
    edited(shown, 50, 60)
    before = shown.pixels

    def full(*_):
        raise StoreError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(shown, "_put", full)
        with pytest.raises(StoreError):
            edited(shown, 52, 62)
    assert np.array_equal(shown.pixels, before)
    assert len(shown.versions) == 2
    edited(shown, 53, 63)
    shown.undo()
    assert np.array_equal(shown.pixels, before)
    kinds = [version.facts["edit"] for version in shown.pool.views[0].session.versions]
    assert kinds == ["photograph", "edit", "edit", "edit"], "what the viewport has of it is left behind"


def test_a_latent_model_reads_words_and_joins_tiles_by_its_positions():
    shown = editor("sd", SPARSE).canvas(photograph(100, 150), prompt="a", steps=2, strength=1.0)
    assert shown.edit(stroke(shown, 50, 60), prompt="b").changed
    assert shown.version.facts["prompt"] == "b"
    before, mask = shown.pixels, np.zeros((100, 150), np.bool_)
    mask[10:95, 20:140] = True
    found = shown.inpaint(mask, plan="tiles")
    changed = (shown.pixels != before).any(-1)
    assert len(found.plan.chosen.tiles) == 6
    assert changed[mask].mean() > 0.9
    assert not changed[outside(found, mask.shape)].any()
    assert shown.version.facts["prompt"] == "b"
    shown.undo()
    assert np.array_equal(shown.pixels, before)
