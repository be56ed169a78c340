"""Pipelines with LoRA, ControlNet, T2I-Adapter and IP-Adapter: as diffusers' own, edits as dense, saving, bad input."""

from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

import retouch
from pipelines import adapted, painted, picture, pipeline, with_lora
from retouch import Editor, ImageError, OptionError, PipelineError
from retouch.editing.area import Area

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

SIZE, STEPS = (64, 64), 3


def image(seed):
    return Image.fromarray(picture("sd", seed))


ONE, TWO = image(7), [image(7), image(8)]
HALF = {"control-2": 0.5}

CASES = {
    "lora": ({}, {}),
    "control": ({"control": ONE}, {"image": ONE}),
    "controls": ({"control": TWO, "scales": HALF}, {"image": TWO, "controlnet_conditioning_scale": [1.0, 0.5]}),
    "xl-controls": ({"control": TWO, "scales": HALF}, {"image": TWO, "controlnet_conditioning_scale": [1.0, 0.5]}),
    "xl-t2i": ({"control": ONE, "scales": {"control-1": 0.7}}, {"image": ONE, "adapter_conditioning_scale": 0.7}),
    "t2i": ({"control": TWO, "scales": HALF}, {"image": TWO, "adapter_conditioning_scale": [1.0, 0.5]}),
    "ip": ({"image_prompt": ONE}, {"ip_adapter_image": ONE}),
}
"""What sessions and what diffusers' pipelines are given."""


def square(top=8, left=8, size=16):
    mask = np.zeros(SIZE, np.bool_)
    mask[top : top + size, left : left + size] = True
    return mask


OTHERWISE = {
    "lora": {"mask": square(), "scales": {"hat": 1.0}},
    "ip": {"mask": square(), "image_prompt": image(9)},
    "controls": {"control": [ONE, painted(TWO[1], 30, 30, 8)]},
    "xl-controls": {"control": [ONE, painted(TWO[1], 30, 30, 8)]},
    "t2i": {"control": [ONE, painted(TWO[1], 30, 30, 8)]},
}
"""Edits that are steered otherwise, by the name of a case."""


@cache
def editor(name, policy="exact"):
    return Editor(adapted(name), policy=policy, name=name)


def opened(name, policy="exact", **options):
    given, _ = CASES.get(name, CASES["control"])
    options = {"steps": STEPS, "strength": 1.0, "guidance": 4.0, **given, **options}
    return editor(name, policy).open(picture("sd"), prompt="a b", **options)


def otherwise(name):
    return OTHERWISE.get(name, {"control": painted(ONE, 30, 30, 8)})


def distance(a, b):
    return int(np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max())


@pytest.mark.parametrize("name", CASES)
def test_a_picture_is_that_of_the_pipeline(name):
    given, theirs = CASES[name]
    made = editor(name)
    session = made.generate("a b", size=SIZE, steps=STEPS, seed=2, guidance=4.0, **given)
    made.model.pipe.set_progress_bar_config(disable=True)
    expected = made.model.pipe(
        "a b", height=SIZE[0], width=SIZE[1], num_inference_steps=STEPS, guidance_scale=4.0, output_type="latent",
        latents=session.sampler.noise(made.model.latent_shape(SIZE)), **theirs,
    ).images  # fmt: skip
    assert torch.allclose(session.version.tensors["latents"][-1:], expected, rtol=1e-3, atol=1e-4)
    assert not [fallback for net in session.networks().values() for fallback in net.explain().fallbacks]


@pytest.mark.parametrize("name", [*CASES, "inpaint-control"])
def test_exact_edits_equal_the_dense_reference(name):
    session = opened(name)
    for how in (otherwise(name), {"image": painted(session.pixels), "strength": 0.7}):
        before, expected = session.pixels, session.reference(**how)
        assert distance(session.edit(**how).image, expected.image) <= 1
        assert distance(before, session.image)


def test_an_edit_of_a_control_image_follows_where_steps_were_recorded_with_another():
    """The first edit computes the last step alone; the second one all, of which the first have seen the old control."""
    session = opened("control")
    session.edit(control=painted(ONE, 40, 40, 12), strength=0.4)
    drawn = painted(session.pixels)
    expected = session.reference(drawn)
    assert distance(session.edit(drawn).image, expected.image) <= 1


@pytest.mark.parametrize("name", ["lora", "controls", "t2i", "ip"])
def test_sessions_are_saved_and_opened_again(name, tmp_path):
    session = opened(name)
    first = session.conditioning.guides
    session.edit(**otherwise(name))
    session.save(tmp_path / "kept")
    second, drawn = session.conditioning.guides, painted(session.pixels)
    expected = session.reference(drawn).image
    session.close()
    with editor(name).restore(tmp_path / "kept") as again:
        assert again.conditioning.guides == second != first
        assert distance(again.edit(drawn).image, expected) <= 1
        again.undo()
        again.undo()
        assert again.conditioning.guides == first


def test_a_lora_switched_on_for_an_edit_acts_in_its_region():
    session, plain = opened("lora", "balanced"), opened("lora", "balanced")
    mask, before = square(), session.pixels
    found = session.edit(mask=mask, scales={"hat": 1.0})
    assert session.version.facts["scales"] == {"hat": 1.0, "style": 0.7}
    outside = ~retouch.plan.region.dilate(mask[None], session.border)[0]
    assert np.array_equal(session.pixels[outside], before[outside])
    without = plain.edit(mask=mask)
    assert distance(np.asarray(found.image)[mask], np.asarray(without.image)[mask]) > 8
    drawn = painted(session.pixels, 40, 40)
    session.edit(drawn, scales={"hat": 0.0})
    assert session.conditioning.guides == plain.conditioning.guides


def test_a_change_of_scale_alone_finds_its_region():
    session = opened("lora", "balanced")
    assert not session.edit(scales={"hat": 0.0}).changed
    assert session.edit(scales={"hat": 2.0}).changed


def test_the_pipeline_stays_as_it_was():
    pipe = editor("lora").model.pipe
    layers = [layer for layer in pipe.unet.modules() if hasattr(layer, "lora_A")]
    before = [(dict(layer.scaling), layer.active_adapters) for layer in layers]
    opened("lora").edit(mask=square(), scales={"hat": 1.0})
    assert before == [(dict(layer.scaling), layer.active_adapters) for layer in layers]
    assert pipe.get_active_adapters() == ["style"]


def test_words_of_areas_beside_adapters():
    for name in ("control", "ip"):
        session = opened(name)
        how = {"areas": [Area(square(), "c d")]}
        expected = session.reference(**how)
        assert distance(session.edit(**how).image, expected.image) <= 1


def test_a_control_image_is_drawn_in_the_background():
    session, other = opened("control", "balanced"), opened("control", "balanced")
    drawn = painted(ONE, 30, 30, 8)
    session.edit(control=drawn)
    job = other.submit(control=drawn, refine="off")
    job.result()
    assert distance(session.image, other.image) == 0
    assert other.conditioning.guides == session.conditioning.guides


def test_variants_of_an_edit_of_a_control_image():
    session = opened("control", "balanced")
    drawn = painted(ONE, 30, 30, 8)
    found = session.variants(2, control=drawn)
    found.choose(0)
    assert distance(session.image, opened("control", "balanced").edit(control=drawn).image) <= 1
    assert np.array_equal(session.conditioning.guides.controls[0].pixels, drawn)


def test_blocks_may_scale_a_lora_differently():
    pipe = adapted("lora")
    pipe.set_adapters(["style"], [{"unet": {"down": 0.4, "mid": 0.8, "up": 0.2}}])
    adapters = Editor(pipe).model.adapters
    layers = [layer for layer in pipe.unet.modules() if hasattr(layer, "lora_A")]
    before = [layer.scaling["style"] for layer in layers]
    with adapters.loras.at(adapters.loras.scales):
        assert [layer.scaling["style"] for layer in layers] == pytest.approx(before)
    with adapters.loras.at({"style": 2 * adapters.loras.scales["style"], "hat": 0.0}):
        assert [layer.scaling["style"] for layer in layers] == pytest.approx([2 * scale for scale in before])


def test_a_fused_lora_is_weights():
    pipe = adapted("lora")
    pipe.fuse_lora(adapter_names=["style"], lora_scale=1.0)
    made = Editor(pipe, policy="exact")
    session = made.open(picture("sd"), prompt="a b", steps=2, strength=1.0, guidance=1.0)
    drawn = painted(session.pixels)
    assert distance(session.reference(drawn).image, session.edit(drawn).image) <= 1
    with pytest.raises(OptionError, match="no adapter 'style' with a scale of its own"):
        session.edit(drawn, scales={"style": 0.5})


def test_an_adapter_that_is_added_later_is_noticed():
    pipe = adapted("lora")
    made = Editor(pipe)
    options = {"prompt": "a b", "steps": 2, "guidance": 1.0}
    session = made.open(picture("sd"), **options)
    with_lora(pipe, "late", 3)
    with pytest.raises(PipelineError, match=r"adapters were added .* open the picture again"):
        session.edit(painted(session.pixels))
    assert made.open(picture("sd"), **options).edit(mask=square(), scales={"late": 1.0}).changed
    pipe.set_adapters(["style"])
    pipe.delete_adapters("late")
    assert session.edit(painted(session.pixels)).changed


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("control", {"control": None}, "0 pictures are given as control image; this pipeline reads 1 of them"),
        ("control", {"control": TWO}, "2 pictures are given as control image; this pipeline reads 1 of them"),
        ("control", {"control": ONE.resize((32, 64))}, "different sizes: 64x64 and 32x64"),
        ("control", {"image_prompt": ONE}, "this pipeline reads none, as it has no IP-Adapter"),
        ("ip", {"image_prompt": None}, "0 pictures are given as image prompt"),
        ("lora", {"control": ONE}, "this pipeline reads none, as it has no ControlNet or T2I-Adapter"),
        ("lora", {"scales": {"hut": 1.0}}, "no adapter 'hut' with a scale of its own; there are hat, style"),
        ("lora", {"scales": {"hat": float("nan")}}, "the scale of 'hat' is nan"),
    ],
)
def test_bad_input(name, given, message):
    with pytest.raises((OptionError, ImageError), match=message):
        opened(name, **given)


def test_controls_that_are_not_supported():
    pipe = adapted("control")
    pipe.controlnet.register_to_config(controlnet_conditioning_channel_order="bgr")
    with pytest.raises(PipelineError, match="is not supported as a control"):
        Editor(pipe)


def test_textual_inversion():
    pipe = adapted("lora")
    words = torch.randn(2, 24, generator=torch.Generator().manual_seed(3))
    pipe.load_textual_inversion({"<cat>": words})
    session = Editor(pipe).open(picture("sd"), prompt="a <cat>", steps=2, guidance=1.0)
    pipe.set_progress_bar_config(disable=True)
    expected = pipe.encode_prompt("a <cat>", "cpu", 1, False)[0]
    found = dict(session.conditioning.inputs)["encoder_hidden_states"]
    assert torch.allclose(found, expected, atol=1e-6)
    assert not torch.allclose(found, pipe.encode_prompt("a b", "cpu", 1, False)[0], atol=1e-3)
    assert pipeline("sd").tokenizer is not pipe.tokenizer
