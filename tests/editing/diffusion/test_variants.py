"""Variants: one edit with several seeds, computed together; one of them becomes the version."""

from functools import partial

import numpy as np
import pytest
import torch
from editing.diffusion.test_session import contents, distance, editor, equal, opened

import retouch
from pipelines import painted, picture
from retouch import Editor
from retouch.editing.diffusion import variants as variants_module
from retouch.editing.diffusion.variants import VariantsError
from retouch.incremental import Incremental

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

PIPELINES = ("ddpm", "sd", "inpaint", "sdxl")


def seeded(name, seed, **options):
    """An edit of a session of its own with another seed of the noise, on the same recording."""


@pytest.mark.parametrize("policy", ["balanced", "exact"])
@pytest.mark.parametrize("name", PIPELINES)
def test_the_first_is_what_edit_makes_and_the_others_differ(name, policy):
    session = opened(name, policy)
    drawn = painted(session.pixels)
    found = session.variants(3, drawn)
    assert session.position == 0
    assert found.seeds == [0, 1, 2]
    edited = session.edit(drawn)
    assert np.array_equal(np.asarray(found.images[0]), np.asarray(edited.image))
    assert all(distance(found.images[0], other) > 0 for other in found.images[1:])
    outside = ~session.process.latent_mask(edited.region)[0, 0].numpy()
    factor = session.size[0] // outside.shape[0]
    still = outside.repeat(factor, 0).repeat(factor, 1)
    for image in found.images:
        assert np.array_equal(np.asarray(image)[still], picture(name)[still])


def test_a_choice_is_a_version_like_that_of_an_edit():
    session, other = opened("sd"), opened("sd")
    drawn = painted(session.pixels)
    found = session.variants(2, drawn, prompt="b")
    result = found.choose(0)
    other.edit(drawn, prompt="b")
    assert equal(contents(session), contents(other))
    assert np.array_equal(np.asarray(result.image), other.pixels)
    assert session.version.facts["seed"] == 0
    assert session.version.facts["prompt"] == "b"
    again, expected = (s.edit(painted(s.pixels, 30, 30)) for s in (session, other))
    assert np.array_equal(np.asarray(again.image), np.asarray(expected.image))
