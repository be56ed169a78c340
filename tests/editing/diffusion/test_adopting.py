"""Pixels taken as they are: the picture at once, recordings when an edit reads them, as if opened with them."""

import numpy as np
import pytest
import torch

import retouch
from editing.diffusion.test_session import contents, distance, editor, equal, opened
from editing.live import SPARSE
from pipelines import PIXEL_SCHEDULERS, painted
from retouch import ImageError
from support import error

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

PLACE = (slice(3, 12), slice(16, 27))


def pasted(session):
    """What the session shows with a patch of another picture, which no stroke resembles."""
    pixels = session.pixels
    pixels[PLACE] = np.random.default_rng(5).integers(0, 256, pixels[PLACE].shape, np.uint8)
    return pixels


def fresh(name, policy, pixels):
    """A session opened on a picture."""
    words = {} if name in PIXEL_SCHEDULERS else {"prompt": "a b"}
    return editor(name, policy).open(pixels, steps=4, strength=0.7, **words)


def close(a, b):
    """Within rounding; sums of norms have a history."""
    return len(a) == len(b) and all(error(x, y) < 1e-4 for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("edited_before", [False, True], ids=["at first", "after an edit"])
@pytest.mark.parametrize("name", ["ddpm", "sd", "inpaint", "kontext"])
def test_an_exact_session_goes_on_as_if_it_had_been_opened_on_the_picture(name, edited_before):
    session = opened(name, "exact")
    if edited_before:
        session.edit(painted(session.pixels, 20, 20))
    session.adopt(pasted(session))
    other = fresh(name, "exact", session.pixels)
    for strength in (0.3, 0.7):  # the second edit reads steps that the first did not
        drawn = painted(session.pixels, 8, 12)
        expected = other.edit(drawn, strength=strength)
        assert distance(session.reference(drawn, strength=strength).image, expected.image) <= 1
        assert distance(session.edit(drawn, strength=strength).image, expected.image) <= 1
    assert close(contents(session), contents(other))


@pytest.mark.parametrize("name", ["ddpm", "sd", "inpaint", "kontext"])
def test_the_picture_is_what_was_given_in_the_mask_and_stays_so(name):
    session = opened(name, SPARSE)
    before, mask = session.pixels, np.zeros(session.size, np.uint8)
    mask[PLACE] = 7  # any grey
    edited = session.adopt(255 - before, mask)
    expected = np.where((mask > 0)[..., None], 255 - before, before)
    assert np.array_equal(session.pixels, expected)
    assert np.array_equal(edited.region.mask[0], mask > 0)
    facts = session.version.facts
    assert (facts["edit"], facts["steps"], facts["prompt"]) == ("adopted", 0, session.conditioning.prompt)
    edited = session.edit(painted(session.pixels, 22, 4))
    outside = ~edited.region.dilated(session.border).mask[0]
    assert outside[PLACE].all()
    assert np.array_equal(session.pixels[outside], expected[outside])


def test_recordings_follow_when_an_edit_reads_them():
    session = opened("sd", SPARSE, strength=1.0)
    session.adopt(pasted(session))
    assert {call for call, _ in session.version.added} == {"encoder"}
    assert 0 < session.version.facts["macs"] < session.version.facts["dense_macs"]
    session.edit(painted(session.pixels, 20, 4), strength=0.5)
    behind = session.version.tensors["behind"].numpy()
    expected = np.zeros(session.size)
    expected[PLACE] = 2  # steps 0 and 1 have not read it
    assert np.array_equal(behind, expected)
    session.edit(painted(session.pixels, 20, 20))
    assert "behind" not in session.version.tensors


@pytest.mark.parametrize("name", ["ddpm", "sd"])
def test_an_edit_beside_adopted_pixels_is_what_it_is_beside_the_same_pixels_of_a_photograph(name):
    session = opened(name, SPARSE)
    untouched = session.branch()
    session.adopt(pasted(session))
    other = fresh(name, SPARSE, session.pixels)
    drawn = painted(session.pixels, 8, 12)
    found, expected = (np.asarray(each.edit(drawn).image) for each in (session, other))
    ignoring = np.asarray(untouched.edit(np.where((drawn != session.pixels), drawn, untouched.pixels)).image)
    near, far = (np.abs(each.astype(int) - expected)[8:13, 12:17].mean() for each in (found, ignoring))
    assert near < 0.7 * far


def test_a_generated_picture_keeps_the_noise_of_its_trajectory():
    session = editor("v", "exact").generate(steps=4, seed=3)
    before = session.version.tensors["latents"]
    session.adopt(pasted(session))
    after, sampler = session.version.tensors["latents"], session.sampler
    for i in range(4):
        old, new = (sampler.noise_of(each[i], each[-1], i) for each in (before, after))
        assert torch.allclose(old, new, atol=1e-4)
    drawn = painted(session.pixels, 8, 12)
    expected = session.reference(drawn)
    assert distance(session.edit(drawn).image, expected.image) <= 1


def test_versions_with_adopted_pixels_are_versions_like_others(tmp_path):
    session, folder = opened("sd", SPARSE), tmp_path / "s"
    first, held = session.pixels, contents(session)
    given = pasted(session)
    session.adopt(given)
    branch = session.branch()
    assert np.array_equal(np.asarray(session.undo()), first)
    assert equal(contents(session), held)
    assert np.array_equal(np.asarray(session.redo()), given)
    session.save(folder)
    session.close()
    drawn = painted(given, 8, 12)
    expected = np.asarray(branch.edit(drawn).image)
    with retouch.open(folder, editor=editor("sd", SPARSE)) as again:
        assert np.array_equal(again.pixels, given)
        found = again.variants(2, drawn)
        assert np.array_equal(found[0].image, expected)
        found.choose(0)
        assert equal(contents(again), contents(branch))
        again.undo()
        assert np.array_equal(np.asarray(again.submit(drawn).result().image), expected)


def test_nothing_to_adopt_and_what_cannot_be():
    session = opened("ddpm", SPARSE)
    assert not session.adopt(session.pixels).changed
    small = session.pixels[:16]
    for given, mask, message in (
        (small, None, "different sizes"),
        (small, np.ones(session.size, bool), "different sizes"),
        (session.pixels, np.ones((4, 4), bool), "the mask is"),
        (session.pixels, np.zeros(session.size, bool), "the mask is empty"),
    ):
        with pytest.raises(ImageError, match=message):
            session.adopt(given, mask)
    assert len(session.versions) == 1


@pytest.mark.parametrize("name", ["ddpm", "sd"])
def test_pixels_that_come_and_go_leave_nothing(name):
    session = opened(name, SPARSE)
    first, given, before = session.pixels, pasted(session), session.version.tensors["latents"]
    drifts = []
    for _ in range(6):
        session.adopt(given)
        session.adopt(first)
        drifts.append(error(session.version.tensors["latents"], before))
    assert np.array_equal(session.pixels, first)
    assert max(drifts) < 1e-3
    assert drifts[-1] <= 2 * drifts[0]
