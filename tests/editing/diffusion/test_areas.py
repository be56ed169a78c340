"""Edits with words per area: equal to the dense model with masked cross-attention, and what sessions keep of them."""

import threading

import numpy as np
import pytest
import torch

import retouch
from editing.diffusion.test_session import contents, distance, editor, equal, opened
from manifests import alter
from pipelines import painted
from retouch import ArchiveError, Area, ImageError, OptionError, PipelineError
from retouch.editing.calls import run_whole
from retouch.editing.diffusion.areas import WORDS, run_dense
from retouch.plan.areas import Areas
from retouch.plan.region import Region, dilate

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

SIZE = (64, 64)


def box(top, left, height, width, level=True):
    mask = np.zeros(SIZE, type(level))
    mask[top : top + height, left : left + width] = level
    return mask


LEFT, RIGHT = box(10, 4, 30, 24), box(20, 20, 30, 36)
AREAS = [(LEFT, "c d e"), Area(RIGHT, "f g h", "a")]


# The dense model is the yardstick.


@pytest.mark.parametrize(
    ("name", "guidance"), [("sd", 1.0), ("sd", 5.0), ("inpaint", 5.0), ("sdxl", 5.0), ("pixart", 5.0), ("sana", 1.0)]
)
def test_exact_edits_equal_the_dense_reference(name, guidance):
    session = opened(name, "exact", guidance=guidance)
    expected = session.reference(areas=AREAS)
    plain = session.reference(mask=LEFT | RIGHT)
    assert distance(session.edit(areas=AREAS).image, expected.image) <= 1
    assert distance(expected.image, plain.image) > 1
    drawn = painted(session.pixels)
    expected = session.reference(drawn)
    assert distance(session.edit(drawn).image, expected.image) <= 1
    expected = session.reference(mask=LEFT, areas=AREAS[1:], inpaint=True)
    assert distance(session.inpaint(LEFT, areas=AREAS[1:]).image, expected.image) <= 1


def net_and_inputs(guidance=5.0):
    session = opened("sd", "fast", guidance=guidance)
    x = session.version.tensors["latents"][0][None]
    inputs = session.model.inputs(x, torch.ones(1), session.conditioning)
    others = [dict(session._condition(words, "", None).inputs)[WORDS] for words in ("c d e", "f g h")]
    return session.nets.denoiser, inputs, others


def test_the_dense_model_with_one_area_of_everything_is_the_model_with_that_text():
    net, inputs, (other, _) = net_and_inputs()
    everything = Areas(WORDS, (Region.from_mask(np.ones(SIZE, bool)),), (other,))
    expected = run_whole(net, **{**inputs, WORDS: other})[0]
    assert torch.allclose(run_dense(net, areas=everything, **inputs)[0], expected, atol=1e-5)
    nothing = Areas(WORDS, (Region.from_mask(np.zeros(SIZE, bool)),), (other,))
    assert torch.allclose(run_dense(net, areas=nothing, **inputs)[0], run_whole(net, **inputs)[0], atol=1e-5)


def test_hooks_of_a_dense_run_are_gone_after_it_and_unseen_by_other_threads(monkeypatch):
    net, inputs, (other, _) = net_and_inputs()
    everything = Areas(WORDS, (Region.from_mask(np.ones(SIZE, bool)),), (other,))
    expected, found = run_whole(net, **inputs)[0], []

    def meanwhile(*args, **kwargs):
        thread = threading.Thread(target=lambda: found.append(run_whole(net, **inputs)[0]))
        thread.start()
        thread.join()
        return run_whole(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr("retouch.editing.diffusion.areas.run_whole", meanwhile)
        run_dense(net, areas=everything, **inputs)
    assert torch.equal(found[0], expected)
    assert torch.equal(run_whole(net, **inputs)[0], expected)
    assert not any(module._forward_pre_hooks for module in net.module.modules())


def test_an_area_of_everything_is_an_edit_with_its_prompt():
    session, everything = opened("sd", "fast"), np.ones(SIZE, bool)
    found = session.edit(areas=[(everything, "c d e")]).image
    session.undo()
    assert distance(session.edit(mask=everything, prompt="c d e").image, found) <= 1
    session.undo()
    assert distance(session.edit(mask=everything).image, found) > 1


@pytest.mark.parametrize("policy", ["balanced", "fast"])
def test_areas_with_the_words_of_the_session_are_an_edit_bit_for_bit(policy):
    one, other = opened("sd", policy), opened("sd", policy)
    expected = one.edit(mask=LEFT | RIGHT).image
    found = other.edit(areas=[(LEFT, "a b"), (RIGHT, "a b")])
    assert np.array_equal(found.image, expected)
    assert equal(contents(one), contents(other))
    assert np.array_equal(found.region.mask[0], LEFT | RIGHT)


# What an edit covers.


def test_pixels_outside_all_areas_stay():
    session = opened("sd")
    before = session.pixels
    result = session.edit(areas=AREAS)
    outside = ~dilate((LEFT | RIGHT)[None], session.policy.dilate)[0]
    assert np.array_equal(result.region.mask[0], LEFT | RIGHT)
    assert np.array_equal(session.pixels[outside], before[outside])


def test_what_was_drawn_and_the_areas_are_edited_or_what_a_mask_says():
    session = opened("sd", "fast")
    drawn = painted(session.pixels, 52, 2)
    stroke = (drawn != session.pixels).any(-1)
    assert np.array_equal(session.edit(drawn, areas=[(LEFT, "c d")]).region.mask[0], LEFT | stroke)
    session.undo()
    assert np.array_equal(session.edit(drawn, mask=stroke, areas=[(LEFT, "c d")]).region.mask[0], stroke)


def test_grey_areas_have_less_strength_and_the_later_one_says_which():
    session = opened("sd", "fast", steps=10, strength=1.0)
    one, other = (session.branch() for _ in range(2))
    found = one.edit(areas=[(LEFT, "c d"), (RIGHT * 0.5, "e f")])
    expected = other.edit(mask=np.where(RIGHT, 0.5, LEFT), areas=[(LEFT, "c d"), (RIGHT, "e f")])
    assert np.array_equal(found.image, expected.image)
    assert distance(session.edit(areas=[(LEFT, "c d"), (RIGHT, "e f")]).image, found.image) > 1


def test_where_areas_overlap_the_later_wins():
    session = opened("sd", "fast")
    found = session.edit(areas=[(LEFT, "c d e"), (RIGHT, "f g"), (LEFT, "h")]).image
    for areas, alike in (([(RIGHT, "f g"), (LEFT, "h")], True), ([(LEFT, "h"), (RIGHT, "f g")], False)):
        session.undo()
        assert np.array_equal(session.edit(areas=areas).image, found) == alike


# Versions.


def test_areas_are_facts_and_hold_for_one_edit(tmp_path):
    session = opened("sd", folder=tmp_path / "s")
    session.edit(areas=AREAS)
    assert session.version.facts["areas"] == [
        {"prompt": "c d e", "negative": None},
        {"prompt": "f g h", "negative": "a"},
    ]
    assert session.conditioning.prompt == "a b"
    first = contents(session)
    session.edit(mask=LEFT)
    assert "areas" not in session.version.facts
    session.undo()
    assert equal(contents(session), first)
    expected = session.branch().edit(areas=AREAS[::-1])
    session.close()
    with retouch.open(tmp_path / "s", editor=editor("sd")) as again:
        assert again.versions[1].facts["areas"][0]["prompt"] == "c d e"
        assert equal(contents(again), first)
        assert np.array_equal(again.edit(areas=AREAS[::-1]).image, expected.image)


def test_the_estimate_and_a_limit_work_with_areas():
    session = opened("sd")
    assert session.edit(areas=AREAS).error >= 0
    session.undo()
    expected = session.reference(areas=AREAS)
    assert distance(session.edit(areas=AREAS, max_error=0.0).image, expected.image) <= 1


# Bad input.


@pytest.mark.parametrize(
    ("area", "error", "reason"),
    [
        ("heart", OptionError, "an area is an Area"),
        ((LEFT,), OptionError, "an area is an Area"),
        ((LEFT, 3), OptionError, "an area is an Area"),
        ((LEFT, "a", "b", "c"), OptionError, "an area is an Area"),
        ((LEFT[:9], "a"), ImageError, "the mask"),
        ((LEFT & False, "a"), ImageError, "empty"),
    ],
)
def test_what_is_no_area_is_refused(area, error, reason):
    session = opened("sd", "fast")
    for ask in (session.edit, session.reference):
        with pytest.raises(error, match=reason):
            ask(areas=[(LEFT, "c"), area])
    assert len(session.versions) == 1


def test_a_model_without_words_refuses_areas():
    session = opened("ddpm")
    with pytest.raises(PipelineError, match="takes no prompt"):
        session.edit(areas=[(np.ones((32, 32), bool), "a")])


def test_a_manifest_with_other_areas_is_refused(tmp_path):
    session = opened("sd", folder=tmp_path / "s")
    session.edit(areas=AREAS)
    session.close()

    def change(manifest):
        manifest["versions"][1]["facts"]["areas"] = ["c d e"]

    alter(tmp_path / "s", change)
    with pytest.raises(ArchiveError, match="areas"):
        retouch.open(tmp_path / "s", editor=editor("sd"))
