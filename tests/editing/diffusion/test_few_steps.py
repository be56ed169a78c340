"""Schedulers and few-step models against diffusers' own pipelines, from the same noise."""

from functools import wraps
from inspect import signature
from itertools import count

import diffusers
import numpy as np
import pytest
import torch

import retouch
from editing.diffusion.test_sampler import ON_DATA
from editing.diffusion.test_session import contents, distance, editor, equal, opened
from pipelines import LATENT_PIXELS, painted, picture, pipeline
from retouch import Editor, PipelineError, SchedulerError
from retouch.editing.diffusion.sampler import Sampler, _mix
from retouch.editing.diffusion.schedulers import chosen

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

SIZE, SEED = (LATENT_PIXELS, LATENT_PIXELS), 2
TEXT_TO_IMAGE = {
    "sd": diffusers.StableDiffusionPipeline,
    "turbo": diffusers.StableDiffusionPipeline,
    "xl-turbo": diffusers.StableDiffusionXLPipeline,
    "lcm": diffusers.LatentConsistencyModelPipeline,
}
IMAGE_TO_IMAGE = {
    "sd": diffusers.StableDiffusionImg2ImgPipeline,
    "turbo": diffusers.StableDiffusionImg2ImgPipeline,
    "xl-turbo": diffusers.StableDiffusionXLImg2ImgPipeline,
    "lcm": diffusers.StableDiffusionImg2ImgPipeline,
}
KARRAS = {"use_karras_sigmas": True}
EXPONENTIAL = {"use_exponential_sigmas": True}
TRAILING = {"timestep_spacing": "trailing"}
CASES = [
    *(("sd", name, {}, 5, 0.6, 1.0) for name in ON_DATA),
    ("sd", "heun", KARRAS, 4, 0.5, 3.0),
    ("sd", "dpm++2m-sde", KARRAS, 5, 1.0, 1.0),
    ("sd", "dpm++sde", EXPONENTIAL, 6, 0.5, 1.0),
    ("sd", "unipc", EXPONENTIAL, 5, 0.8, 1.0),
    ("sd", "euler", TRAILING, 4, 0.5, 0.0),
    ("sd", "ddim", TRAILING, 8, 0.25, 0.0),
    ("sd", "lcm", {}, 4, 1.0, 1.0),
    ("lcm", None, {}, 4, 0.5, 8.0),
    ("turbo", None, {}, 1, 1.0, 0.0),
    ("turbo", None, {}, 2, 0.5, 0.0),
    ("xl-turbo", None, {}, 1, 1.0, 0.0),
    ("xl-turbo", None, {}, 4, 0.5, 0.0),
]


def made(name, scheduler, settings):
    """An editor with that scheduler, where `settings` are those of the pipeline's."""
    current = pipeline(name).scheduler
    if settings:
        current = diffusers.EulerDiscreteScheduler.from_config(current.config, **settings)
    found = Editor(pipeline(name), policy="exact")
    found.model, found.scheduler = editor(name, "exact").model, chosen(scheduler, current)
    return found


def seeded(scheduler, first=0):
    """A copy whose steps draw the noise that a session's draw."""
    found = type(scheduler).from_config(scheduler.config)
    step, places = found.step, count(first)

    @wraps(step)
    def drawn(*args, generator=None, eta=None, **options):
        return step(*args, generator=torch.Generator().manual_seed(_mix(SEED, next(places))), **options)

    if "generator" in signature(step).parameters:
        found.step = drawn
    return found


def theirs(kind, name, scheduler):
    """diffusers' pipeline of that class with the parts of a tiny one."""
    parts = {**pipeline(name).components, "scheduler": scheduler}
    known = signature(kind.__init__).parameters
    extra = {"requires_safety_checker": False, "add_watermarker": False}
    pipe = kind(**{key: value for key, value in {**parts, **extra}.items() if key in known})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def close(found, expected):
    return torch.allclose(found, expected, rtol=1e-3, atol=2e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(("name", "scheduler", "settings", "steps", "strength", "guidance"), CASES)
def test_image_to_image_is_that_of_diffusers(name, scheduler, settings, steps, strength, guidance):
    found = made(name, scheduler, settings)
    options = {"strength": strength, "guidance": guidance, "steps": steps, "seed": SEED}
    session = found.open(picture(name), prompt="a b", **options)
    photograph = session.version.tensors["latents"][-1:]
    session.edit(mask=np.ones(session.size, bool))
    pipe = theirs(IMAGE_TO_IMAGE[name], name, seeded(found.scheduler, session.first))
    expected = pipe(
        "a b", image=photograph, strength=strength, num_inference_steps=steps, guidance_scale=guidance,
        generator=torch.Generator().manual_seed(SEED), output_type="latent",
    ).images  # fmt: skip
    assert close(session.version.tensors["latents"][-1:], expected)


@pytest.mark.parametrize(("name", "scheduler", "settings", "steps", "strength", "guidance"), CASES)
def test_text_to_image_is_that_of_diffusers(name, scheduler, settings, steps, strength, guidance):
    found = made(name, scheduler, settings)
    session = found.generate("a b", guidance=guidance, size=SIZE, steps=steps, seed=SEED, strength=1.0)
    pipe = theirs(TEXT_TO_IMAGE[name], name, seeded(found.scheduler))
    noise = session.sampler.noise(found.model.latent_shape(SIZE))
    expected = pipe(
        "a b", guidance_scale=guidance, height=SIZE[0], width=SIZE[1], num_inference_steps=steps, latents=noise,
        output_type="latent",
    ).images  # fmt: skip
    assert close(session.version.tensors["latents"][-1:], expected)


def test_a_consistency_model_with_as_many_steps_at_less_strength():
    """LCM's own image to image takes all its steps below `strength`: those of a session with more steps."""
    session = made("lcm", None, {}).open(picture("lcm"), prompt="a b", strength=0.5, guidance=8.0, steps=8, seed=SEED)
    photograph = session.version.tensors["latents"][-1:]
    session.edit(mask=np.ones(session.size, bool))
    pipe = theirs(
        diffusers.LatentConsistencyModelImg2ImgPipeline, "lcm", seeded(pipeline("lcm").scheduler, session.first)
    )
    expected = pipe(
        "a b", image=photograph, strength=0.5, num_inference_steps=4, guidance_scale=8.0,
        generator=torch.Generator().manual_seed(SEED), output_type="latent",
    ).images  # fmt: skip
    assert close(session.version.tensors["latents"][-1:], expected)


# What holds for every session


@pytest.mark.parametrize(
    ("name", "scheduler"), [*(("ddpm", name) for name in ON_DATA), ("flow", None), ("lcm", None), ("turbo", None)]
)
def test_outside_nothing_moves_and_twice_is_the_same(name, scheduler):
    session = opened(name, "fast", steps=4, strength=1.0, editor_options={"scheduler": scheduler} if scheduler else {})
    before = session.version.tensors["latents"]
    drawn = painted(session.pixels)
    result = session.edit(drawn)
    first, latents = np.array(result.image), session.version.tensors["latents"]
    outside = ~session.latent_mask(result.region)[0].expand_as(before[0])
    assert len(latents) == len(session.sampler) + 1
    assert all(torch.equal(one[outside], two[outside]) for one, two in zip(before, latents, strict=True))
    assert not torch.equal(before, latents)
    held = contents(session)
    session.undo()
    assert np.array_equal(session.edit(drawn).image, first)
    assert torch.equal(session.version.tensors["latents"], latents)
    assert equal(held, contents(session))


@pytest.mark.parametrize("name", ["lcm", "turbo", "xl-turbo", "taesd", "classes", "flow"])
def test_exact_edits_equal_the_dense_reference(name):
    session = opened(name, "exact", steps=2, strength=0.5, **({"class_label": 2} if name == "classes" else {}))
    assert len(session.sampler) - session.first == 1
    drawn = painted(session.pixels)
    expected = session.reference(drawn)
    assert distance(session.edit(drawn).image, expected.image) <= 1
    mask = np.zeros(session.size, bool)
    mask[3:9, 4:12] = True
    expected = session.reference(mask=mask, inpaint=True)
    assert distance(session.inpaint(mask).image, expected.image) <= 1


def test_a_single_step_redraws_for_other_words():
    session = opened("turbo", "fast", steps=1, strength=1.0, guidance=0.0)
    assert session.edit(prompt="c d").changed


# The scale of guidance as an input


def test_a_model_that_reads_the_guidance_runs_once_a_step():
    session = opened("lcm", "fast", steps=2, guidance=8.0, strength=1.0)
    assert not session.conditioning.guided
    inputs = dict(session.conditioning.inputs)
    assert inputs["timestep_cond"].shape == (1, 8)
    other = opened("lcm", "fast", steps=2, guidance=2.0, strength=1.0)
    assert not torch.equal(dict(other.conditioning.inputs)["timestep_cond"], inputs["timestep_cond"])
    latents = [
        each.edit(mask=np.ones(each.size, bool)) and each.version.tensors["latents"] for each in (session, other)
    ]
    assert not torch.equal(*latents)


def test_a_model_that_reads_the_guidance_avoids_nothing():
    with pytest.raises(PipelineError, match="takes no negative prompt"):
        opened("lcm", negative="c")
    session = opened("lcm", "fast", steps=1, strength=1.0)
    with pytest.raises(PipelineError, match="takes no negative prompt"):
        session.edit(painted(session.pixels), negative="c")


# Classes


def test_a_class_is_kept_and_can_be_changed(tmp_path):
    session = opened("classes", "exact", steps=3, strength=1.0, class_label=1)
    drawn = painted(session.pixels)
    same, other = (np.array(session.reference(drawn, class_label=label).image) for label in (None, 3))
    assert not np.array_equal(same, other)
    assert distance(session.edit(drawn, class_label=3).image, other) <= 1
    assert session.version.facts["class_label"] == 3
    session.save(tmp_path / "kept")
    session.close()
    again = retouch.open(tmp_path / "kept", editor=Editor(pipeline("classes"), policy="exact", name="classes"))
    assert again.conditioning.class_label == 3
    again.undo()
    assert again.conditioning.class_label == 1
    assert again.edit(class_label=2).changed  # where the predictions for the two differ


def test_classes_that_there_are_not():
    made = Editor(pipeline("classes"))
    with pytest.raises(PipelineError, match="needs a class: name one with class_label=, from 0 to 3"):
        made.generate(steps=2)
    for label in (4, -1):
        with pytest.raises(PipelineError, match=f"has no class {label}; classes are numbered from 0 to 3"):
            made.open(picture("classes"), steps=2, class_label=label)
    session = made.open(picture("classes"), steps=2, class_label=0, strength=1.0)
    with pytest.raises(PipelineError, match="has no class 9"):
        session.edit(painted(session.pixels), class_label=9)
    with pytest.raises(PipelineError, match="takes no class"):
        Editor(pipeline("ddpm")).generate(steps=2, class_label=0)


def test_any_number_is_a_class_of_networks_that_embed_it():
    made = Editor(pipeline("numbers"), policy="fast")
    one, other = (made.generate(steps=1, strength=1.0, class_label=number).pixels for number in (3, 900))
    assert not np.array_equal(one, other)
    with pytest.raises(PipelineError, match="has no class -1; classes are numbered from 0 on"):
        made.generate(steps=1, strength=1.0, class_label=-1)


# The shift for an image's size


@pytest.mark.parametrize("name", ["flow-euler", "unipc", "deis", "dpm++", "dpm++2s"])
def test_schedulers_by_name_shift_as_the_pipeline_tells(name):
    current = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    found = []
    for mu in (0.6, 1.6):
        told = {"mu": mu, "sigmas": np.linspace(1.0, 0.25, 4)}
        own, named = (Sampler(each, 4, 0, told) for each in (current, chosen(name, current)))
        assert named.spread == pytest.approx(own.spread, abs=2e-3)
        found.append(named.spread[2])
    assert found[1] - found[0] > 0.1


def test_a_fixed_shift_is_told_no_size():
    current = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    one, other = (Sampler(chosen("dpm++", current), 4, 0, {"mu": mu}) for mu in (0.6, 1.6))
    assert one.spread == other.spread


def test_a_shift_of_a_kind_that_a_scheduler_lacks():
    current = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type="linear")
    with pytest.raises(SchedulerError, match=r"deis does not fit this model: it takes other settings; .* unipc"):
        chosen("deis", current)


# Bad input


def test_a_scheduler_of_other_models_is_named_with_those_that_fit():
    with pytest.raises(SchedulerError, match=r"flow-euler does not fit this model.*choose one of ddim, ddpm"):
        Editor(pipeline("ddpm"), scheduler="flow-euler")
    with pytest.raises(SchedulerError, match=r"lcm does not fit this model.*choose one of deis, dpm"):
        Editor(pipeline("flow"), scheduler="lcm")


def test_more_steps_than_were_distilled():
    with pytest.raises(SchedulerError, match="LCMScheduler cannot take 60 steps"):
        Editor(pipeline("lcm")).open(picture("lcm"), steps=60)
    with pytest.raises(SchedulerError, match="leaves none of 1 steps"):
        Editor(pipeline("turbo")).open(picture("turbo"), steps=1, strength=0.9)
