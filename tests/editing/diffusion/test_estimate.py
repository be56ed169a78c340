"""The estimated error of an edit, and edits that keep below a limit."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st

import retouch
from editing.diffusion.test_session import editor, opened
from pipelines import painted
from retouch.editing.diffusion.estimate import (
    FITTED,
    Calibration,
    StepCheck,
    checked_step,
    root_mean_square,
    sample_edit,
)
from retouch.editing.diffusion.redraw import grey_levels
from retouch.editing.diffusion.sampler import Sampler
from retouch.plan.policy import Policy

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

PROBED = Policy("probed", dilate=2, stats="probed", probes=9, probe_distance=1, crossover=0.9)


@pytest.mark.parametrize("policy", ["paper", "balanced", PROBED], ids=str)
def test_edits_estimate_their_error(policy):
    session = opened("sd", policy)
    edited = session.edit(painted(session.pixels))
    assert 0 < edited.error < 255
    found = session.calibration()
    assert edited.error == pytest.approx(math.hypot(found.gain * edited.estimate.disagreement, found.floor))


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
    session.settings["calibration"] = {"gain": 1.5, "floor": 0.5}
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
            output,
            lambda far=far, outside=outside: torch.where(inside, far, outside),
            inside,
            lambda: 2.0,
            decoded=False,
            calibration=lambda: Calibration(1.3, 1.3),
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
    assert grey_levels(opened("ddpm", "balanced").version.tensors) == pytest.approx(127.5, rel=1e-3)


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


# Calibration


@pytest.mark.parametrize("name", ["ddpm", "sd"])
def test_a_session_calibrates_on_its_own_edit_when_it_is_first_asked(name, tmp_path):
    session = opened(name, "fast", folder=tmp_path / "s")
    held = [layer for _, layer in session.version.added]
    drawn = painted(session.pixels)
    edited = session.edit(drawn)
    assert "calibration" not in session.settings
    truth = session.branch()
    truth.undo()
    assert edited.error > 0
    found = session.calibration()
    assert found.gain >= 1
    assert (found.floor > 0) == (name == "sd")
    # What it was measured on is the original, and that is left alone.
    pixels, mask = sample_edit(session.versions[0].pixels)
    dense = np.asarray(truth.reference(pixels, mask=mask).image)
    made = truth.edit(pixels, mask=mask)
    error = root_mean_square(np.asarray(made.image), dense, mask)
    assert found == Calibration.measured(made.estimate.disagreement, error, found.floor)
    assert [layer for _, layer in session.versions[0].added] == held
    assert len(session.versions) == 2
    session.undo()
    session.close()
    with retouch.open(tmp_path / "s", editor=editor(name, "fast")) as again:
        assert again.settings["calibration"] == {"gain": found.gain, "floor": found.floor}


def test_what_an_edit_says_of_a_gain():
    assert Calibration.measured(2.0, 5.0, 3.0) == Calibration(2.0, 3.0)
    assert Calibration.measured(2.0, 0.5, 0.0) == Calibration(1.0, 0.0)  # right by chance
    assert Calibration.measured(0.0, 5.0, 1.0) == Calibration(1.0, 1.0)


def test_a_model_that_was_fitted_and_an_exact_policy_need_no_calibration(monkeypatch):
    exact, fitted = opened("ddpm", "exact"), opened("ddpm", "fast")
    monkeypatch.setattr(type(fitted), "_measured", lambda session: pytest.fail("it was measured"))
    assert exact.calibration() == Calibration(1.0, 0.0)
    fitted.settings = {**fitted.settings, "model": "builtin/emoji"}
    assert fitted.calibration() == FITTED["builtin/emoji"]


@pytest.mark.parametrize("size", [(32, 32), (64, 48), (5, 7), (1, 1)])
def test_the_sample_edit_is_small_and_visible(size):
    pixels = np.full((*size, 3), 90, np.uint8)
    drawn, mask = sample_edit(pixels)
    assert mask.any()
    assert mask.mean() < 0.06 or max(size) < 8
    assert np.array_equal((drawn != pixels).any(2), mask)
