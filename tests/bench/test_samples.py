"""The fixed set of edits: sizes, masks, and that it is the same every time."""

import hashlib

import numpy as np
import pytest

from retouch.bench.samples import KINDS, LEAST, MOST, THRESHOLD, TOLERANCE, sample_edits, target_fraction
from retouch.editing.images import ImageError

COUNT = 50


def drawing(place, height=64, width=64):
    """A disc on a plain background, different for every place."""
    rows, cols = np.indices((height, width))
    disc = (rows - 20 - 4 * place) ** 2 + (cols - 30) ** 2 < 300
    picture = np.full((height, width, 3), 255 - 5 * place, np.uint8)
    picture[disc] = np.stack([40 * place + 0 * rows, 3 * rows, 200 - 3 * cols], 2)[disc]
    return picture


PICTURES = {
    "drawings": [drawing(place) for place in range(5)],
    "other sizes": [drawing(0, 48, 96), drawing(1, 80, 40), drawing(2, 64, 64)],
    "noise": [np.random.default_rng(place).integers(0, 256, (40, 40, 3), np.uint8) for place in range(3)],
    "flat": [np.full((64, 64, 3), level, np.uint8) for level in (255, 20)],
}


@pytest.fixture(scope="module", params=PICTURES)
def made(request):
    return PICTURES[request.param], sample_edits(PICTURES[request.param], COUNT)


def test_masks_are_exactly_what_changed_and_changes_can_be_seen(made):
    images, edits = made
    for edit in edits:
        before = images[edit.image]
        assert edit.pixels.dtype == np.uint8
        assert edit.pixels.shape == before.shape
        change = np.abs(edit.pixels.astype(int) - before).max(2)
        assert np.array_equal(change > 0, edit.mask)
        assert np.array_equal(change > THRESHOLD, edit.mask)


def test_shares_are_near_their_targets(made):
    for index, edit in enumerate(made[1]):
        assert edit.mask.any()
        assert 1 / TOLERANCE < edit.fraction / target_fraction(index) < TOLERANCE


def test_kinds_and_pictures_take_turns(made):
    images, edits = made
    assert [edit.kind for edit in edits[: len(KINDS)]] == list(KINDS)
    for start in range(0, COUNT, len(KINDS)):
        assert [edit.kind for edit in edits[start : start + len(KINDS)]] == list(KINDS)
    for start in range(0, COUNT - len(images), len(images)):
        assert {edit.image for edit in edits[start : start + len(images)]} == set(range(len(images)))
    for kind in KINDS:
        assert {edit.image for edit in edits if edit.kind == kind} == set(range(len(images)))


def test_targets_of_every_kind_are_spread_over_their_logarithm():
    for number, kind in enumerate(KINDS.values()):
        places = np.log([target_fraction(index) / LEAST for index in range(number, 100, len(KINDS))])
        counts, _ = np.histogram(places / np.log(kind.most / LEAST), 5, (0, 1))
        assert counts.sum() == 20
        assert counts.min() >= 3
        assert LEAST < kind.most <= MOST


def painted(edit):
    """The colours [n, 3] of an edit, and how many of its pixels have each."""
    return np.unique(edit.pixels[edit.mask], axis=0, return_counts=True)


def test_strokes_and_dots_have_one_colour_beside_their_edges():
    for edit in sample_edits(PICTURES["drawings"], COUNT):
        if edit.kind in ("stroke", "dots"):
            # The smallest are little more than edges.
            assert painted(edit)[1].max() > (0.4 if edit.fraction > 0.02 else 0.2) * edit.mask.sum()


def test_erasures_are_of_the_background():
    images = PICTURES["drawings"]
    erasures = [edit for edit in sample_edits(images, COUNT) if edit.kind == "erasure"]
    found = [
        (colours[counts.argmax()] == images[e.image][0, 0]).all() for e in erasures for colours, counts in [painted(e)]
    ]
    # The largest targets are more than there is to erase.
    assert sum(found) >= 0.7 * len(erasures)


def test_patches_are_of_other_pictures():
    images = PICTURES["noise"]
    for edit in sample_edits(images, COUNT):
        # Small ellipses are little more than edges.
        if edit.kind == "paste" and edit.fraction > 0.02:
            others = np.concatenate([image.reshape(-1, 3) for i, image in enumerate(images) if i != edit.image])
            colours, _ = painted(edit)
            assert (colours[:, None] == others).all(2).any(1).mean() > 0.7


def test_the_same_every_time_and_whatever_the_count():
    images = PICTURES["drawings"]
    first, again, other = sample_edits(images, 20), sample_edits(images, 10), sample_edits(images, 10, seed=1)
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(first, again, strict=False))
    assert not any(np.array_equal(a.pixels, b.pixels) for a, b in zip(first, other, strict=False))


def test_the_set_is_fixed():
    """Figures of different versions are compared on it. Letters depend on Pillow."""
    edits = sample_edits(PICTURES["drawings"], COUNT)
    pixels = b"".join(edit.pixels.tobytes() for edit in edits if edit.kind != "text")
    assert hashlib.sha256(pixels).hexdigest().startswith("073c08457c6fe6f0")


def test_bad_pictures_are_named():
    picture = drawing(0)
    for images, reason in [
        ([picture], "two are needed, not 1"),
        ([picture, picture.astype(np.float32)], "picture 1 is float32"),
        ([picture[:20], picture], r"picture 0 is uint8 \[20, 64, 3\]"),
        ([picture[..., 0], picture], r"picture 0 is uint8 \[64, 64\]"),
    ]:
        with pytest.raises(ImageError, match=reason):
            sample_edits(images, 5)


def test_what_cannot_be_made_is_an_error():
    flat = np.full((64, 64, 3), 9, np.uint8)
    with pytest.raises(ImageError, match=r"no paste was found that changes 1.71% of picture 1"):
        sample_edits([flat, flat], 2)
