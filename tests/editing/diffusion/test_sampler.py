"""Time steps and trajectories against diffusers' own loops."""

import diffusers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retouch.editing.diffusion import SCHEDULERS, SchedulerError
from retouch.editing.diffusion.sampler import Sampler, _mix, chosen

SHAPE = (1, 3, 4, 4)
BASES = {
    "epsilon": {},
    "v": {"prediction_type": "v_prediction"},
    "stable diffusion": {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1},
    "few steps": {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
}
FROM_PURE_NOISE = ("ddim", "ddpm", "euler")
PAIRS = [(name, base) for name in SCHEDULERS for base in BASES if base != "few steps" or name in FROM_PURE_NOISE]


def scheduler(name, base="epsilon"):
    return chosen(name, diffusers.DDIMScheduler(**BASES[base]))


def predicted(x, time):
    """A network that is neither linear nor the same at every step."""
    return torch.tanh(x) * 0.7 + torch.sin(time.float() / 300) * 0.2


def by_diffusers(name, base, steps, strength, image, noise):
    """Image to image as in `StableDiffusionImg2ImgPipeline`, with a generator of our choice for each step."""
    theirs = scheduler(name, base)
    theirs.set_timesteps(steps)
    first = max(steps - min(int(steps * strength), steps), 0)
    if hasattr(theirs, "set_begin_index"):
        theirs.set_begin_index(first)
    x = theirs.add_noise(image, noise, theirs.timesteps[first : first + 1])
    for i, time in enumerate(theirs.timesteps[first:], first):
        output = predicted(theirs.scale_model_input(x, time), time)
        options = {"generator": generator(i)} if "generator" in theirs.step.__code__.co_varnames else {}
        x = theirs.step(output, time, x, return_dict=False, **options)[0]
    return x


def generator(i, seed=3):
    return torch.Generator().manual_seed(_mix(seed, i))


@pytest.mark.parametrize("strength", [0.1, 0.35, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("steps", [10, 13, 30])
@pytest.mark.parametrize(("name", "base"), PAIRS)
def test_a_trajectory_is_that_of_diffusers(name, base, steps, strength):
    torch.manual_seed(0)
    image, noise = torch.randn(SHAPE), torch.randn(SHAPE)
    sampler = Sampler(scheduler(name, base), steps, seed=3)
    start = sampler.start(strength)
    trajectory, x = sampler.trajectory(start), sampler.noised(image, noise, start)
    for i in range(start, len(sampler)):
        x = trajectory.advance(predicted(sampler.model_input(x, i), sampler.times[i]), x)
    expected = by_diffusers(name, base, steps, strength, image, noise)
    assert torch.allclose(x, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(("name", "base"), PAIRS)
def test_noise_is_found_again(name, base):
    sampler = Sampler(scheduler(name, base), 12, seed=0)
    image, noise = torch.randn(SHAPE), torch.randn(SHAPE)
    for i in range(len(sampler)):
        again = sampler.noise_of(sampler.noised(image, noise, i), image, i)
        assert torch.allclose(again, noise, atol=2e-2)
    assert torch.equal(sampler.noised(image, noise, len(sampler)), image)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_leave_their_original_alone(name):
    original = scheduler(name)
    sampler = Sampler(original, 10, seed=0)
    trajectory = sampler.trajectory(0)
    trajectory.advance(torch.zeros(SHAPE), torch.ones(SHAPE))
    fresh = scheduler(name)
    assert vars(original).keys() == vars(fresh).keys()
    assert original.num_inference_steps == fresh.num_inference_steps
    again = sampler.trajectory(0).advance(torch.zeros(SHAPE), torch.ones(SHAPE))
    assert torch.equal(again, sampler.trajectory(0).advance(torch.zeros(SHAPE), torch.ones(SHAPE)))


@given(steps=st.integers(1, 60), strength=st.floats(0.001, 1.0))
@settings(deadline=None, max_examples=60)
def test_strength_counts_steps(steps, strength):
    sampler = Sampler(scheduler("ddim"), steps, seed=0)
    if int(steps * strength) < 1:
        with pytest.raises(SchedulerError, match="none of"):
            sampler.start(strength)
    else:
        assert len(sampler) - sampler.start(strength) == int(steps * strength)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_position_acts_alone(name):
    sampler = Sampler(scheduler(name), 10, seed=1)
    x, output = 0.1 * torch.randn(SHAPE), 0.1 * torch.randn(SHAPE)  # so small that nothing is clipped
    other = x.clone()
    other[..., 2, 1] += 1
    one, two = (sampler.trajectory(4).advance(output, each) for each in (x, other))
    changed = (one != two).any(1)[0]
    assert changed[2, 1]
    assert changed.sum() == 1


@pytest.mark.parametrize(("name", "steps"), [*((name, 0) for name in SCHEDULERS), ("ddim", -1), ("ddim", 1001)])
def test_impossible_numbers_of_steps(name, steps):
    with pytest.raises(SchedulerError, match="step"):
        Sampler(scheduler(name), steps, seed=0)


@pytest.mark.parametrize("name", ["ddim", "pndm"])
def test_as_many_steps_as_were_trained(name):
    with pytest.raises(SchedulerError, match="cannot take 1000 steps"):
        Sampler(scheduler(name, "stable diffusion"), 1000, seed=0)  # its offset of one leads beyond the last
    assert len(Sampler(scheduler(name), 1000, seed=0)) >= 1000


@pytest.mark.parametrize("strength", [0.0, -0.5, 1.01, float("nan")])
def test_impossible_strengths(strength):
    with pytest.raises(SchedulerError, match="strength"):
        Sampler(scheduler("ddim"), 10, seed=0).start(strength)


def test_unknown_and_unsupported_schedulers():
    with pytest.raises(SchedulerError, match="there are ddim"):
        chosen("heun", diffusers.DDIMScheduler())
    with pytest.raises(SchedulerError, match="HeunDiscreteScheduler is not supported"):
        chosen(None, diffusers.HeunDiscreteScheduler())
    with pytest.raises(SchedulerError, match="skip_prk_steps"):
        chosen(None, diffusers.PNDMScheduler())
