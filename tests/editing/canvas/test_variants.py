"""Edits of canvases with several seeds, and with words of their own for parts of the region."""

import numpy as np
import pytest

from editing.canvas.test_canvas import STEPS, canvas, editor, outside, photograph, stroke, ways
from editing.live import SPARSE
from retouch import OptionError


def test_a_variant_becomes_a_version_as_it_was_shown():
    shown, other = canvas(), canvas()
    before, drawn = shown.pixels, stroke(shown, 50, 60)
    plan = ways(shown, drawn, "new", 2)
    found = shown.variants(3, drawn, plan=plan)
    assert found.seeds == [0, 1, 2]
    assert np.array_equal(shown.pixels, before)
    assert len(shown.versions) == 1
    other.edit(drawn, plan=plan)
    first = found.choose(0)
    assert shown.version.facts["seconds"] == found.source.seconds, "those of all variants"
    assert np.array_equal(shown.pixels, other.pixels), "the first seed is the canvas's own"
    second = found.choose(2)
    assert second.rectangle == first.rectangle == found.rectangle
    assert np.array_equal(np.asarray(found.images[2]), shown.image.crop(found.rectangle))
    assert not np.array_equal(shown.pixels, other.pixels)
    assert not (shown.pixels != before).any(-1)[outside(first, before.shape[:2])].any()
    assert [(version.parent, version.facts.get("seed")) for version in shown.versions] == [(None, None), (0, 0), (0, 2)]
    shown.edit(stroke(shown, 52, 64), plan="sparse")
    with pytest.raises(OptionError, match="no longer shows"):
        found.choose(1)
    shown.undo()
    found.choose(0)
    assert np.array_equal(shown.pixels, other.pixels), "chosen again after another edit in the viewport"
    assert np.array_equal(np.asarray(shown.go(1)), other.pixels)
    assert np.array_equal(np.asarray(shown.undo()), before)


def test_variants_are_of_one_viewport():
    shown = canvas()
    drawn = stroke(shown, 50, 60)
    for wrong in ({"plan": "dense"}, {"max_error": 1.0}):
        with pytest.raises(OptionError):
            shown.variants(2, drawn, **wrong)
    with pytest.raises(OptionError, match="changes something"):
        shown.variants(2, shown.pixels)
    assert len(shown.versions) == 1


@pytest.mark.parametrize("way", ["new", "dense", "tiles"])
def test_areas_have_words_of_their_own(way):
    shown, plain = (editor("sd", SPARSE).canvas(photograph(100, 150), prompt="a", **STEPS) for _ in range(2))
    mask = np.zeros((100, 150), bool)
    mask[40:80, 20 : 140 if way == "tiles" else 60] = True
    left, right = mask.copy(), mask.copy()
    left[:, 40:], right[:, :40] = False, False
    found = shown.edit(areas=[(left, "b"), (right, "c d", "e")], plan=way)
    plain.edit(mask=mask, plan=way)
    assert shown.version.facts["areas"] == [{"prompt": "b", "negative": None}, {"prompt": "c d", "negative": "e"}]
    assert shown.version.facts["prompt"] == "a"
    differs = (shown.pixels != plain.pixels).any(-1)
    assert differs[left].any()
    assert differs[right].any()
    assert not differs[outside(found, mask.shape)].any()


def test_areas_with_the_words_of_the_canvas_change_nothing_more():
    shown, plain = (editor("sd", "exact").canvas(photograph(64, 64), prompt="a", **STEPS) for _ in range(2))
    mask = np.zeros((64, 64), bool)
    mask[20:40, 20:40] = True
    shown.edit(mask=mask, areas=[(mask, "a")])
    plain.edit(mask=mask)
    assert np.abs(shown.pixels.astype(int) - plain.pixels).max() <= 1
