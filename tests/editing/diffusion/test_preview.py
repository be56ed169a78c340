"""Previews: a linear map of the clean latent that a step predicts."""

import diffusers
import numpy as np
import pytest
import torch

from editing.diffusion.test_session import opened
from pipelines import painted, pipeline
from retouch.editing.diffusion.preview import LinearMap
from retouch.editing.diffusion.sampler import Sampler
from retouch.editing.diffusion.schedulers import chosen
from retouch.editing.jobs import Job
from retouch.runtime.state.layered import Restored


def test_colours_that_are_linear_in_a_latent_are_found():
    latent, weights = torch.randn(1, 4, 6, 8), torch.rand(5, 3) * 20
    weights[4] = 128
    levels = torch.einsum("chw,cd->hwd", torch.cat([latent[0], torch.ones(1, 6, 8)]), weights).clamp(0, 255)
    pixels = levels.round().to(torch.uint8).numpy().repeat(8, 0).repeat(8, 1)
    found = LinearMap.fitted(latent, pixels)
    assert (found.weights - weights).abs().max() < 2


def test_a_picture_of_one_colour_is_no_trouble():
    found = LinearMap.fitted(torch.zeros(1, 4, 6, 8), np.full((48, 64, 3), 77, np.uint8))
    assert (found.pixels(torch.zeros(1, 4, 6, 8), (slice(3, 9), slice(0, 64)), 8) == 77).all()


@pytest.mark.parametrize("factor", [1, 8])
def test_a_part_is_that_part_of_the_whole(factor):
    latent, size = torch.randn(1, 4, 6, 8, generator=torch.Generator().manual_seed(3)), (6 * factor, 8 * factor)
    colours = LinearMap(torch.rand(5, 3) * 60)
    whole = colours.pixels(latent, (slice(0, size[0]), slice(0, size[1])), factor)
    assert whole.shape == (*size, 3)
    for box in (np.s_[0:3, 2:5], np.s_[size[0] - 3 : size[0], size[1] - 1 : size[1]], np.s_[2:4, 1:6]):
        assert np.array_equal(colours.pixels(latent, box, factor), whole[box])


EPSILON, V, SAMPLE = "epsilon", "v_prediction", "sample"


@pytest.mark.parametrize(
    ("name", "kind"), [("ddim", EPSILON), ("ddim", V), ("ddim", SAMPLE), ("euler", EPSILON), ("euler", V)]
)
def test_the_clean_latent_is_the_schedulers_own(name, kind):
    current = type(pipeline("ddpm").scheduler).from_config(
        pipeline("ddpm").scheduler.config, prediction_type=kind, clip_sample=False
    )
    sampler = Sampler(chosen(name, current), 10, 0)
    x, output = torch.randn(2, 1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    for i in (3, 8):
        scheduler = sampler.trajectory(i).scheduler
        scheduler.scale_model_input(x, sampler.times[i])  # Euler finds its place there
        expected = scheduler.step(output, sampler.times[i], x).pred_original_sample
        assert torch.allclose(sampler.clean(output, x, i), expected, atol=1e-4, rtol=1e-4)


def test_the_clean_latent_of_flow_matching_is_what_is_left_without_the_noise():
    sampler = Sampler(diffusers.FlowMatchEulerDiscreteScheduler(), 10, 0)
    clean, noise = torch.randn(2, 1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    for i in (3, 8):
        x = sampler.noised(clean, noise, i)
        assert torch.allclose(sampler.clean(noise - clean, x, i), clean, atol=1e-5)


def test_a_step_is_shown_before_what_it_computed_is_kept(monkeypatch):
    session, happened = opened("ddpm", "fast", steps=3), []
    commit, show = Restored.commit, Job.show
    monkeypatch.setattr(Restored, "commit", lambda state: (happened.append("kept"), commit(state))[1])
    monkeypatch.setattr(Job, "show", lambda job, kind, *rest: (happened.append(kind), show(job, kind, *rest))[1])
    job = session.submit(painted(session.pixels), refine="off")
    job.result(60)
    steps = session.version.facts["steps"]
    assert happened == ["preview", "kept"] * steps + ["result"]
