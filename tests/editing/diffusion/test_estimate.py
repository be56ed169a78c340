"""The estimated error of an edit, and edits that keep below a limit."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st

from editing.diffusion.test_session import opened
from pipelines import painted
from retouch.editing.diffusion.estimate import FLOOR, GAIN, StepCheck, checked_step
from retouch.editing.diffusion.sampler import Sampler
from retouch.plan.policy import Policy

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

PROBED = Policy("probed", dilate=2, stats="probed", probes=9, probe_distance=1, crossover=0.9)


@pytest.mark.parametrize("policy", ["paper", "balanced", PROBED], ids=str)
def test_edits_estimate_their_error(policy):
    session = opened("sd", policy)
    edited = session.edit(painted(session.pixels))
    assert 0 < edited.error < 255
    assert edited.error == pytest.approx(math.hypot(GAIN * edited.estimate.disagreement, FLOOR))


def test_an_exact_edit_has_no_error():
    session = opened("sd", "exact")
    assert session.edit(painted(session.pixels)).error < 0.1


def test_an_edit_that_changes_nothing_has_no_estimate():
    session = opened("sd", "balanced")
    assert session.edit(session.image).error is None


def test_the_dense_network_is_asked_once_and_only_when_somebody_looks(monkeypatch):
    session = opened("sd", "balanced")
    asked = []
    module = session.nets.denoiser.module
    forward = module.forward
    monkeypatch.setattr(module, "forward", lambda *a, **k: asked.append(1) or forward(*a, **k))
    edited = session.edit(painted(session.pixels))
    assert not asked
    assert edited.error == edited.error
    assert len(asked) == 1


def test_steps_that_disagree_more_mean_more_error():
    output, inside = torch.zeros(1, 4, 8, 8), torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    inside[..., 2:5, 2:5] = True
    errors = []
    for far in (0.0, 0.01, 0.1, 1.0):
        outside = torch.full_like(output, 7.0)
        check = StepCheck(
            output, lambda far=far, outside=outside: torch.where(inside, far, outside), inside, 2.0, decoded=False
        )
        assert check.disagreement == pytest.approx(2 * far)
        errors.append(check.error)
    assert errors == sorted(errors)
    assert errors[0] == 0
    assert replace(check, decoded=True).error > errors[-1]


@pytest.mark.parametrize(("kind", "share"), [("epsilon", 4 / 3), ("v_prediction", 0.8), ("sample", 1)])
def test_predictions_count_as_the_clean_images_they_stand_for(kind, share):
    sampler = Sampler(DDIMScheduler(prediction_type=kind), 4, 0)
    sampler.scale[2], sampler.spread[2] = 0.6, 0.8
    assert sampler.leverage(2) == pytest.approx(share)


def test_levels_of_an_image_without_latents():
    assert opened("ddpm", "balanced")._levels == pytest.approx(127.5, rel=1e-3)


@given(count=st.integers(1, 1000))
def test_the_checked_step_is_one_of_the_edits(count):
    assert 0 <= checked_step(count) < count


def test_a_limit_that_cannot_be_kept_computes_everything(tmp_path):
    session = opened("sd", PROBED)
    session.save(tmp_path / "session")
    drawn = painted(session.pixels)
    dense = session.reference(drawn)
    free = np.asarray(session.edit(drawn).image).astype(int)
    session.undo()
    strict = np.asarray(session.edit(drawn, max_error=1e-9).image).astype(int)
    truth = np.asarray(dense.image).astype(int)
    assert np.abs(strict - truth).max() <= 1
    assert np.abs(strict - truth).sum() < np.abs(free - truth).sum()
    assert not list((tmp_path / "session" / "versions").glob("*.part"))
    session.close()


def test_a_generous_limit_changes_nothing():
    session = opened("sd", PROBED)
    drawn = painted(session.pixels)
    free = session.edit(drawn).image
    session.undo()
    assert np.array_equal(session.edit(drawn, max_error=1e9).image, free)
