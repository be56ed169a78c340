"""Time steps and trajectories against diffusers' own loops."""

from functools import partial

import diffusers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retouch.editing.diffusion import SCHEDULERS, SchedulerError
from retouch.editing.diffusion.sampler import Sampler, _mix
from retouch.editing.diffusion.schedulers import chosen, name_of

SHAPE = (1, 3, 4, 4)
BASES = {
    "epsilon": {},
    "v": {"prediction_type": "v_prediction"},
    "stable diffusion": {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1},
    "trailing": {"timestep_spacing": "trailing"},
    "few steps": {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
}
SIGMAS = {"karras": {"use_karras_sigmas": True}, "exponential": {"use_exponential_sigmas": True}}
FLOW, ANGLE = "flow", "angle"
OWN = {"flow-euler": FLOW, "scm": ANGLE}
"""Schedulers of models that no other base is for."""
ON_DATA = tuple(name for name in SCHEDULERS if name not in OWN)
BY_SIGMAS = ("deis", "dpm++", "dpm++2m-sde", "dpm++2s", "dpm++sde", "euler", "heun", "unipc")
FROM_PURE_NOISE = ("ddim", "ddpm", "dpm++", "dpm++2m-sde", "euler", "euler-a", "lcm", "tcd", "unipc")
FLOWING = ("deis", "dpm++", "dpm++2m-sde", "flow-euler", "unipc")
PAIRS = [
    *((name, base) for name in ON_DATA for base in BASES if base != "few steps" or name in FROM_PURE_NOISE),
    *((name, sigmas) for name in BY_SIGMAS for sigmas in SIGMAS),
    *((name, FLOW) for name in FLOWING),
    ("scm", ANGLE),
]


def base_of(name, base):
    """The scheduler of a pipeline that another one takes the place of."""
    if base == FLOW:
        return diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    if base == ANGLE:
        return diffusers.SCMScheduler()
    if base in SIGMAS:
        return diffusers.EulerDiscreteScheduler(**SIGMAS[base])
    return diffusers.DDIMScheduler(**BASES[base])


def scheduler(name, base="epsilon"):
    return chosen(name, base_of(name, OWN.get(name, base)))


def predicted(x, time):
    """A network that is neither linear nor the same at every step."""
    return torch.tanh(x) * 0.7 + torch.sin(time.float() / 300) * 0.2


def by_diffusers(name, base, steps, strength, image, noise):
    """Image to image as in `StableDiffusionImg2ImgPipeline`, with a generator of our choice for each step."""
    theirs = scheduler(name, base)
    theirs.set_timesteps(steps)
    first = max(steps - min(int(steps * strength), steps), 0) * theirs.order
    if hasattr(theirs, "set_begin_index"):
        theirs.set_begin_index(first)
    time = theirs.timesteps[first : first + 1]
    flows = hasattr(theirs, "scale_noise")
    x = theirs.scale_noise(image, time, noise) if flows else theirs.add_noise(image, noise, time)
    for i, time in enumerate(theirs.timesteps[first:], first):
        output = predicted(x if flows else theirs.scale_model_input(x, time), time)
        options = {"generator": generator(i)} if "generator" in theirs.step.__code__.co_varnames else {}
        x = theirs.step(output, time, x, return_dict=False, **options)[0]
    return x


def generator(i, seed=3):
    return torch.Generator().manual_seed(_mix(seed, i))


def along_an_angle(steps, strength, image, noise):
    """Image to image as in `SanaSprintImg2ImgPipeline`, whose latents are half as long."""
    theirs = scheduler("scm")
    theirs.set_timesteps(steps, intermediate_timesteps=1.3 if steps == 2 else None)
    first = max(steps - min(int(steps * strength), steps), 0)
    theirs.set_begin_index(first)
    time = theirs.timesteps[first]
    x = (torch.cos(time) * image + torch.sin(time) * noise) * 0.5
    for i, time in enumerate(theirs.timesteps[first:-1], first):
        output = predicted(x / 0.5, time) * 0.5
        x, clean = theirs.step(output, time, x, return_dict=False, generator=generator(i))
    return clean / 0.5


@pytest.mark.parametrize(("steps", "strength"), [(1, 1.0), (2, 0.5), (4, 0.6), (10, 0.1), (13, 1.0), (30, 0.77)])
@pytest.mark.parametrize(("name", "base"), PAIRS)
def test_a_trajectory_is_that_of_diffusers(name, base, steps, strength):
    torch.manual_seed(0)
    image, noise = torch.randn(SHAPE), torch.randn(SHAPE)
    sampler = Sampler(scheduler(name, base), steps, seed=3)
    start = sampler.start(strength)
    trajectory, x = sampler.trajectory(start), sampler.noised(image, noise, start)
    for i in range(start, len(sampler)):
        x = trajectory.advance(predicted(sampler.model_input(x, i), sampler.times[i]), x)
    run = along_an_angle if base == ANGLE else partial(by_diffusers, name, base)
    expected = run(steps, strength, image, noise)
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
    assert str(original.timesteps) == str(fresh.timesteps)
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
        chosen("lms", diffusers.DDIMScheduler())
    with pytest.raises(SchedulerError, match="LMSDiscreteScheduler is not supported; choose one of ddim, ddpm"):
        chosen(None, diffusers.LMSDiscreteScheduler())
    with pytest.raises(SchedulerError, match="skip_prk_steps"):
        chosen(None, diffusers.PNDMScheduler())


@pytest.mark.parametrize(
    ("name", "current", "reason"),
    [
        ("flow-euler", diffusers.DDIMScheduler(), "it predicts epsilon, the scheduler takes flow_prediction"),
        ("lcm", diffusers.FlowMatchEulerDiscreteScheduler(), "prediction_type given as flow_prediction"),
        ("pndm", diffusers.DDIMScheduler(prediction_type="sample"), "prediction_type given as sample"),
        ("euler-a", diffusers.DDIMScheduler(prediction_type="sample"), "not implemented yet: sample"),
        ("heun", diffusers.DDIMScheduler(rescale_betas_zero_snr=True), "trained down to zero signal"),
        ("ddim", diffusers.SCMScheduler(), "prediction_type given as trigflow"),
        ("scm", diffusers.DDIMScheduler(), "Unsupported parameterization: epsilon"),
        ("ddim", diffusers.EDMEulerScheduler(), "levels of noise of EDMEulerScheduler are its own"),
        ("pndm", diffusers.EulerDiscreteScheduler(beta_schedule="squaredcos_cap_v2"), None),
        ("heun", diffusers.HeunDiscreteScheduler(beta_schedule="exp"), None),
        ("ddim", diffusers.HeunDiscreteScheduler(beta_schedule="exp"), "exp is not implemented"),
    ],
)
def test_schedulers_of_other_models_are_refused(name, current, reason):
    if reason is None:
        chosen(name, current)
        return
    with pytest.raises(SchedulerError, match=reason) as caught:
        chosen(name, current)
    named = str(caught.value).partition("choose one of ")[2].split(", ")
    assert named == [fit for fit in SCHEDULERS if fit in named] or "no other one fits" in str(caught.value)
    for fit in filter(None, named):
        chosen(fit, current)


@pytest.mark.parametrize(("name", "base"), PAIRS)
def test_a_name_makes_the_same_scheduler_again(name, base):
    """As saved sessions ask for theirs."""
    made = chosen(name, base_of(name, base))
    assert name_of(made) == name
    again = chosen(name_of(made), base_of(name, base))
    plain = [{k: v for k, v in each.config.items() if not k.startswith("_")} for each in (made, again)]
    assert plain[0] == plain[1]


@pytest.mark.parametrize("name", ON_DATA)
def test_what_the_model_was_trained_with_carries_over(name):
    """Also what is a default of one scheduler and not of another."""
    made = chosen(name, diffusers.DDIMScheduler())
    assert torch.allclose(made.alphas_cumprod, diffusers.DDIMScheduler().alphas_cumprod)
    betas = torch.linspace(1e-4, 3e-2, 500).tolist()
    made = chosen(name, diffusers.DDIMScheduler(num_train_timesteps=500, trained_betas=betas))
    assert len(made.alphas_cumprod) == 500
    assert torch.allclose(made.betas, torch.tensor(betas))


def test_settings_of_the_pipeline_carry_over():
    base = diffusers.EulerDiscreteScheduler(use_karras_sigmas=True, timestep_spacing="trailing")
    for name in ("dpm++", "heun", "unipc"):
        assert chosen(name, base).config.use_karras_sigmas
        assert chosen(name, base).config.timestep_spacing == "trailing"
    assert chosen("ddim", base).config.timestep_spacing == "trailing"


def test_two_calls_in_a_step():
    sampler = Sampler(scheduler("heun"), 5, seed=0)
    assert len(sampler) == 9
    assert [sampler.start(n / 5) for n in (5, 4, 3, 2, 1)] == [0, 2, 4, 6, 8]
    for i in range(1, 9, 2):  # the second call of a step is at the level of noise that the step leads to
        assert sampler.times[i] == sampler.times[i + 1]
        assert (sampler.scale[i], sampler.spread[i]) == (sampler.scale[i + 1], sampler.spread[i + 1])


def test_more_steps_at_less_strength_are_those_of_consistency_models():
    """`LCMScheduler.set_timesteps(strength=)` puts its steps where the last ones of a longer schedule are."""
    for name in ("lcm", "tcd"):
        theirs = scheduler(name)
        theirs.set_timesteps(4, strength=0.5)
        sampler = Sampler(scheduler(name), 8, seed=0)
        assert torch.equal(sampler.times[sampler.start(0.5) :], theirs.timesteps)


def test_noise_alone_tells_a_network_nothing_that_predicts_noise():
    base = {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
    sampler = Sampler(diffusers.DDIMScheduler(**base), 4, seed=0)
    assert sampler.scale[0] == 0
    for begin in (lambda: sampler.start(1.0), lambda: sampler.trajectory(0)):
        with pytest.raises(SchedulerError, match=r"no signal is left.*at a lower strength"):
            begin()
    assert sampler.start(0.75) == 1
    foreseen = Sampler(diffusers.DDIMScheduler(**base, prediction_type="v_prediction"), 4, seed=0)
    assert foreseen.start(1.0) == 0
    assert (foreseen.spread[0], foreseen.leverage(0)) == (1.0, 1.0)
    image, noise = torch.randn(SHAPE), torch.randn(SHAPE)
    assert torch.equal(foreseen.noise_of(foreseen.noised(image, noise, 0), image, 0), noise)
