"""Sessions on pipelines with a transformer: what they show is what diffusers' pipelines make."""

import inspect
import json

import numpy as np
import peft
import pytest
import torch
from diffusers import StableDiffusion3Pipeline, StableDiffusionPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.schedulers import scheduling_scm
from PIL import Image

from editing.diffusion.test_session import contents, distance, editor, equal, opened
from pipelines import LATENT_PIXELS, TRANSFORMERS, adapted, painted, picture, pipeline
from retouch import Editor, ImageError, OptionError, PipelineError, Policy
from retouch.editing.diffusion.qwen import QwenImageEditModel
from retouch.plan.region import dilate

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

SIZE = (LATENT_PIXELS, LATENT_PIXELS)


PACKED = ("flux", "flux-dev", "fill", "kontext", "qwen", "qwen-edit", "qwen-plus", "qwen-2511", "chroma")
"""Those that take their noise as tokens."""
QWEN3 = ("klein", "klein-base", "klein-kv", "klein-inpaint", "z-image", "z-image-inpaint")
QWEN = ("qwen", "qwen-inpaint", "qwen-edit", "qwen-plus", "qwen-2511", "qwen-edit-inpaint")
LONGEST = {**dict.fromkeys(QWEN, 8), **dict.fromkeys(QWEN3, 64)}
"""Tokens that the text encoder reads, where they are not 16."""
AS_IT_IS = {"_auto_resize": False, "max_area": SIZE[0] * SIZE[1]}
"""Kontext scales pictures otherwise."""
CROSSED = {"use_resolution_binning": False}
GENERATED = {
    "schnell": ("flux", {}, {}),
    "dev": ("flux-dev", {"guidance": 3.5}, {"guidance_scale": 3.5}),
    "sd3": ("sd3", {"guidance": 4.0, "negative": "c d"}, {"guidance_scale": 4.0, "negative_prompt": "c d"}),
    "sd3 without guidance": ("sd3", {"guidance": 1.0}, {"guidance_scale": 1.0}),
    "qwen": ("qwen", {"guidance": 4.0, "negative": "c"}, {"true_cfg_scale": 4.0, "negative_prompt": "c"}),
    "qwen without guidance": ("qwen", {"guidance": 1.0}, {"true_cfg_scale": 1.0}),
    "klein": ("klein", {}, {}),
    "klein-base": ("klein-base", {"guidance": 4.0}, {"guidance_scale": 4.0}),
    "klein-kv": ("klein-kv", {}, {}),
    "z-image": ("z-image", {"guidance": 0.0}, {"guidance_scale": 0.0}),
    "z-image with guidance": (
        "z-image",
        {"guidance": 4.0, "negative": "c"},
        {"guidance_scale": 4.0, "negative_prompt": "c"},
    ),
    "z-image, long negative": (
        "z-image",
        {"guidance": 4.0, "negative": "c d" * 11},
        {"guidance_scale": 4.0, "negative_prompt": "c d" * 11},
    ),
    "chroma": ("chroma", {"guidance": 5.0, "negative": "c"}, {"guidance_scale": 5.0, "negative_prompt": "c"}),
    "chroma without guidance": ("chroma", {"guidance": 1.0}, {"guidance_scale": 1.0}),
    "pixart": (
        "pixart", {"guidance": 4.5, "negative": "c"}, {"guidance_scale": 4.5, "negative_prompt": "c", **CROSSED},
    ),
    "pixart without guidance": ("pixart", {"guidance": 1.0}, {"guidance_scale": 1.0, **CROSSED}),
    "pixart-alpha": ("pixart-alpha", {"guidance": 4.5}, {"guidance_scale": 4.5, **CROSSED}),
    "sana": ("sana", {"guidance": 4.5, "negative": "c"}, {"guidance_scale": 4.5, "negative_prompt": "c", **CROSSED}),
    "sana without guidance": ("sana", {"guidance": 1.0}, {"guidance_scale": 1.0, **CROSSED}),
    "sprint": ("sprint", {"guidance": 4.5}, {"guidance_scale": 4.5, "intermediate_timesteps": None, **CROSSED}),
}  # fmt: skip


def made(name, session, noise, steps=3, **options):
    """The picture `[H, W, 3]` that diffusers' pipeline makes of a latent of noise."""
    pipe = pipeline(name)
    pipe.set_progress_bar_config(disable=True)
    if name in PACKED:
        noise = pipe._pack_latents(noise, 1, *noise.shape[1:])
    words = LONGEST.get(name, 16)
    image = pipe(
        prompt="a b", height=SIZE[0], width=SIZE[1], num_inference_steps=steps, latents=noise, output_type="np",
        max_sequence_length=words, **options,
    ).images[0]  # fmt: skip
    return (image * 255).round()


@pytest.mark.parametrize("case", GENERATED)
def test_a_generated_session_shows_what_the_pipeline_makes_of_the_same_noise(case, monkeypatch):
    monkeypatch.setattr(scheduling_scm, "randn_tensor", lambda shape, **_: torch.full(shape, 0.3))
    name, options, given = GENERATED[case]
    session = editor(name).generate("a b", size=SIZE, steps=3, seed=5, **options)
    noise = session.sampler.noise(session.model.latent_shape(SIZE))
    assert distance(session.pixels, made(name, session, noise, **given)) <= 1
    for net in session.networks().values():
        assert net.explain().fallbacks == []


INPAINTING = (
    "flux-inpaint", "kontext-inpaint", "qwen-inpaint", "qwen-edit-inpaint", "klein-inpaint",
    "klein-inpaint with another", "z-image-inpaint", "chroma-inpaint",
)  # fmt: skip


@pytest.mark.parametrize("name", INPAINTING)
def test_repainting_shows_what_the_pipeline_makes_of_the_same_noise(name, monkeypatch):
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda found, generator=None: found.mean)
    at_its_size(name, monkeypatch)
    name, _, more = name.partition(" with ")
    other = wide(name) if more else None
    session = opened(name, "exact", steps=3, strength=1.0, prompt="c", guidance=0.0, image_prompt=other)
    mask, before, clean = np.zeros(SIZE, bool), session.pixels, session.version.tensors["latents"][-1:]
    mask[16:32, 24:40] = True
    noise = session.sampler.noise(session.model.latent_shape(SIZE))
    edited = np.asarray(session.inpaint(mask, prompt="a b", strength=1.0).image)
    if name == "z-image-inpaint":  # draws another noise for the rest, and the latent of the picture
        monkeypatch.setattr(pipeline(name), "prepare_latents", lambda *_: (noise, noise, clean))
    if name in QWEN:  # takes no noise without a picture's latent
        tokens = [pipeline(name)._pack_latents(each, 1, *each.shape[1:]) for each in (noise, noise, clean)]
        monkeypatch.setattr(pipeline(name), "prepare_latents", lambda *_: tokens)
    pictures = {"image": Image.fromarray(before), "mask_image": Image.fromarray(mask), "strength": 1.0}
    pictures |= {"image_reference": Image.fromarray(other)} if more else {}
    pictures |= AS_IT_IS if name == "kontext-inpaint" else {}
    expected = made(name, session, noise, **pictures, guidance_scale=0.0)
    assert distance(edited[mask], expected[mask]) <= 1
    assert distance(edited[mask], before[mask]) > 20


def test_a_picture_that_is_filled_everywhere_is_what_the_pipeline_makes_of_a_full_mask(monkeypatch):
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda found, generator=None: found.mean)
    session = editor("fill").generate("a b", size=SIZE, steps=3, seed=5, guidance=30.0)
    noise = session.sampler.noise(session.model.latent_shape(SIZE))
    grey = Image.new("RGB", SIZE, (127,) * 3)
    options = {"image": grey, "mask_image": Image.new("L", SIZE, 255), "strength": 1.0, "guidance_scale": 30.0}
    assert distance(session.pixels, made("fill", session, noise, **options)) <= 1
    drawn = painted(session.pixels)
    exact = editor("fill", "exact").generate("a b", size=SIZE, steps=3, seed=5, guidance=30.0)
    expected = exact.reference(drawn)
    assert distance(exact.edit(drawn).image, expected.image) <= 1


REFERRING = {
    "kontext": ({"guidance": 2.5}, {"guidance_scale": 2.5, **AS_IT_IS}),
    "qwen-edit": ({"guidance": 4.0, "negative": "c"}, {"true_cfg_scale": 4.0, "negative_prompt": "c"}),
    "qwen-plus": ({"guidance": 4.0, "negative": "c"}, {"true_cfg_scale": 4.0, "negative_prompt": "c"}),
    "qwen-2511": ({"guidance": 4.0, "negative": "c"}, {"true_cfg_scale": 4.0, "negative_prompt": "c"}),
}


def at_its_size(name, monkeypatch):
    """Qwen-Image-Edit scales pictures to areas that are its own."""
    module = inspect.getmodule(type(pipeline(name)))
    if hasattr(module, "calculate_dimensions"):
        monkeypatch.setattr(module, "calculate_dimensions", lambda area, ratio: (*SIZE, None)[: 2 + ("edit" in name)])
        monkeypatch.setattr(QwenImageEditModel, "picture_tokens", lambda model, texts: 48)


@pytest.mark.parametrize("name", REFERRING)
def test_a_picture_that_is_made_anew_everywhere_is_what_the_pipeline_makes_of_it(name, monkeypatch):
    at_its_size(name, monkeypatch)
    options, given = REFERRING[name]
    shown, everywhere = picture(name), np.ones(SIZE, bool)
    session = editor(name).open(shown, prompt="a b", steps=3, seed=5, strength=1.0, **options)
    noise = session.sampler.noise(session.model.latent_shape(SIZE))
    expected = made(name, session, noise, image=Image.fromarray(shown), **given)
    assert distance(session.reference(mask=everywhere, inpaint=True).image, expected) <= 1
    assert session.nets.denoiser.explain().fallbacks == []


def test_several_pictures_are_references_of_one_sequence(monkeypatch, tmp_path):
    at_its_size("qwen-plus", monkeypatch)
    shown, other, third = (picture("qwen-plus", seed) for seed in (0, 1, 2))
    options, given = REFERRING["qwen-plus"]
    options = {"prompt": "a b", "steps": 2, "strength": 1.0, **options}
    session = editor("qwen-plus", "exact").open(shown, image_prompt=[shown, other], folder=tmp_path / "s", **options)
    assert session.nets.denoiser.explain().fallbacks == []
    pictures = [Image.fromarray(each) for each in (shown, other)]
    noise = session.sampler.noise(session.model.latent_shape(SIZE))
    expected = made("qwen-plus", session, noise, steps=2, image=pictures, **given)
    assert distance(session.reference(mask=np.ones(SIZE, bool), inpaint=True).image, expected) <= 1
    mask = np.zeros(SIZE, bool)
    mask[20:32, 20:36] = True
    expected = session.reference(mask=mask, image_prompt=[shown, third])
    assert distance(session.edit(mask=mask, image_prompt=[shown, third]).image, expected.image) <= 1
    with pytest.raises(OptionError, match="keep their number"):
        session.edit(mask=mask, image_prompt=[shown])
    kept = np.array(session.pixels)
    session.close()
    with editor("qwen-plus", "exact").restore(tmp_path / "s") as again:
        assert np.array_equal(again.pixels, kept)
        drawn = painted(again.pixels)
        expected = again.reference(drawn)
        assert distance(again.edit(drawn).image, expected.image) <= 1


def wide(name):
    """A picture of another size."""
    return np.tile(picture(name, 2), (1, 2, 1))[:, :96]


@pytest.mark.parametrize("name", ["klein", "klein-base", "klein-kv"])
def test_klein_reads_other_pictures_as_the_pipeline_does(name):
    _, options, given = GENERATED[name]
    others = [picture(name, 1), wide(name)]
    made_of = editor(name, "exact")
    session = made_of.generate("a b", size=SIZE, steps=2, seed=5, image_prompt=others, **options)
    noise = session.sampler.noise(session.model.latent_shape(SIZE))
    alone = made(name, session, noise, steps=2, **given)
    expected = made(name, session, noise, steps=2, image=[Image.fromarray(each) for each in others], **given)
    assert distance(session.pixels, expected) <= 1
    assert distance(alone, expected) > 5
    assert session.nets.denoiser.explain().fallbacks == []


@pytest.mark.parametrize("name", ["klein", "klein-kv"])
def test_references_of_klein_in_edits_and_folders(name, tmp_path):
    shown, other, third = (picture("klein", seed) for seed in (0, 1, 2))
    options = {"prompt": "a b", "steps": 2, "strength": 1.0, "folder": tmp_path / "s"}
    session = editor(name, "exact").open(shown, image_prompt=[other], **options)
    mask = np.zeros(SIZE, bool)
    mask[20:32, 20:36] = True
    expected = session.reference(mask=mask, image_prompt=[third])
    edited = session.edit(mask=mask, image_prompt=[third])
    assert distance(edited.image, expected.image) <= 1
    with pytest.raises(OptionError, match="keep their number"):
        session.edit(mask=mask, image_prompt=[third, other])
    kept = np.array(session.pixels)
    session.close()
    with editor(name, "exact").restore(tmp_path / "s") as again:
        assert np.array_equal(again.pixels, kept)
        expected = again.reference(painted(again.pixels))
        assert distance(again.edit(painted(again.pixels)).image, expected.image) <= 1


def test_references_that_cannot_be_read():
    small, many = picture("klein")[:32], [picture("klein")] * 11
    with pytest.raises(ImageError, match="too small"):
        editor("klein").generate("a", size=SIZE, steps=2, image_prompt=small)
    with pytest.raises(OptionError, match=r"11 pictures .* reads 10"):
        editor("klein").generate("a", size=SIZE, steps=2, image_prompt=many)
    with pytest.raises(OptionError, match=r"2 pictures .* reads 1"):
        editor("klein-inpaint").open(picture("klein"), prompt="a", steps=2, image_prompt=many[:2])
    with pytest.raises(OptionError, match="reads none"):
        editor("flux").generate("a", size=SIZE, steps=2, image_prompt=small)


def test_references_that_see_themselves_alone_are_computed_once_for_all_steps():
    """Their keys and values are inputs: no rows are recorded of them, and an edit computes none."""
    plain, own = (editor(name).open(picture("klein"), prompt="a", steps=2, image_prompt=picture("klein", 1))
                  for name in ("klein", "klein-kv"))  # fmt: skip
    assert {v.grid.reference for v in plain.nets.denoiser.plan.kept} == {0, 1}
    assert {v.grid.reference for v in own.nets.denoiser.plan.kept} == {0}
    blocks, cached = own.model.pipe.transformer.config, dict(own.conditioning.inputs)["cached"]
    assert len(cached) == blocks.num_layers + blocks.num_single_layers


ADAPTED = ("flux", "klein", "klein-kv", "qwen-edit", "z-image", "sd3", "chroma", "sana")


def with_loras(name):
    """A pipeline whose transformer has two LoRAs of random weights, of which one is switched on."""
    pipe = TRANSFORMERS[name]()
    for seed, adapter in enumerate(("style", "hat")):
        torch.manual_seed(seed)
        config = peft.LoraConfig(target_modules=["to_q", "to_v"], r=4, lora_alpha=4, init_lora_weights=False)
        pipe.transformer.add_adapter(config, adapter_name=adapter)
    pipe.set_adapters(["style"], [0.7])
    return pipe


@pytest.mark.parametrize("name", ADAPTED)
def test_loras_of_transformers_have_scales(name):
    exact, near = (Editor(with_loras(name), policy=policy) for policy in ("exact", "balanced"))
    options = {"prompt": "a b", "steps": 2, "strength": 1.0, "guidance": 0.0}
    session, other = (made.open(picture(name), **options) for made in (exact, near))
    assert dict(session.conditioning.guides.scales) == {"hat": 0.0, "style": 0.7}
    assert session.nets.denoiser.explain().fallbacks == []
    drawn, mask = painted(session.pixels), np.zeros(SIZE, bool)
    mask[8:24, 8:24] = True
    expected = session.reference(drawn, scales={"hat": 1.0})
    assert distance(expected.image, session.reference(drawn).image) > 1
    assert distance(session.edit(drawn, scales={"hat": 1.0}).image, expected.image) <= 1
    before = other.pixels
    found = np.asarray(other.edit(mask=mask, scales={"hat": 1.0}).image)
    outside = ~dilate(mask[None], other.border)[0]
    assert np.array_equal(found[outside], before[outside])
    assert not np.array_equal(found, before)


def test_a_lora_of_a_transformer_is_what_the_pipeline_makes_of_it_from_its_file(tmp_path):
    pipe = with_loras("flux")
    layers = peft.get_peft_model_state_dict(pipe.transformer, adapter_name="hat")
    pipe.save_lora_weights(tmp_path / "lora", transformer_lora_layers=layers)
    pipeline("flux").save_pretrained(tmp_path / "model")
    loaded = Editor.from_pretrained(tmp_path / "model", loras={"hat": tmp_path / "lora"}, policy="exact", device="cpu")
    session = loaded.generate("a b", size=SIZE, steps=2, seed=3, scales={"hat": 0.5})
    pipe.set_adapters(["hat"], [0.5])
    pipe.set_progress_bar_config(disable=True)
    noise = pipe._pack_latents(session.sampler.noise(loaded.model.latent_shape(SIZE)), 1, 4, 16, 16)
    options = {"height": SIZE[0], "width": SIZE[1], "output_type": "np", "max_sequence_length": 16}
    image = pipe("a b", num_inference_steps=2, latents=noise, **options).images[0]
    assert distance(session.pixels, (image * 255).round()) <= 1
    with pytest.raises(PipelineError, match="made for another model"):
        Editor.from_pretrained(tmp_path / "model", loras={"hat": of_unet(tmp_path / "unet")}, device="cpu")


def of_unet(folder):
    """The file of a LoRA for a U-Net."""
    layers = peft.get_peft_model_state_dict(adapted("lora").unet, adapter_name="hat")
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers)
    return folder


def test_an_adapter_of_a_transformer_that_is_added_later_is_noticed():
    pipe = TRANSFORMERS["flux"]()
    session = Editor(pipe).open(picture("flux"), prompt="a", steps=2)
    pipe.transformer.add_adapter(peft.LoraConfig(target_modules=["to_q"], r=4), adapter_name="late")
    with pytest.raises(PipelineError, match=r"adapters were added .* open the picture again"):
        session.edit(painted(session.pixels))


def test_the_shift_of_the_schedule_follows_the_size():
    made = editor("flux")
    small, large = (made.model.schedule(size, 4) for size in (SIZE, (256, 256)))
    assert np.allclose(small["sigmas"], [1, 0.75, 0.5, 0.25])
    assert small["mu"] < large["mu"]


ALL = (
    "flux", "fill", "kontext", "qwen", "qwen-edit", "sd3", "klein", "klein-inpaint", "z-image", "chroma", "pixart",
    "sana", "sprint",
)  # fmt: skip


@pytest.mark.parametrize("name", ALL)
def test_sessions_are_saved_and_opened_again(name, tmp_path):
    session = opened(name, folder=tmp_path / "s")
    session.edit(painted(session.pixels))
    kept, shown = contents(session), np.array(session.pixels)
    session.close()
    with editor(name).restore(tmp_path / "s") as again:
        assert np.array_equal(again.pixels, shown)
        assert equal(contents(again), kept)
        again.edit(painted(again.pixels, 30, 20))
        again.undo()
        assert np.array_equal(again.pixels, shown)


def test_texts_are_computed_in_every_second_step():
    session = opened("flux", Policy("second", text=2, crossover=1.0), strength=1.0)
    session.edit(painted(session.pixels))
    layers = dict(session.versions[-1].added)
    steps = [name for name, network in session.calls().items() if network == "denoiser"]
    texts = [{len(t) for v, t in layers[name].tables.items() if v.grid.text} for name in steps]
    assert [rows != {0} and bool(rows) for rows in texts] == [True, False, True, False]


def test_what_models_of_chats_do_not_take():
    made = editor("klein")
    with pytest.raises(PipelineError, match="takes no negative prompt"):
        made.generate("a", size=SIZE, negative="b", steps=2)
    with pytest.raises(PipelineError, match=r"the prompt has \d+ tokens, and the text encoder reads 64"):
        made.generate("a" * 80, size=SIZE, steps=2)
    with pytest.raises(PipelineError, match=r"multiples of 4; .* to 64x64"):
        made.generate("a", size=(62, 64), steps=2)
    with pytest.raises(PipelineError, match="makes pictures of others"):
        editor("klein-inpaint").generate("a", size=SIZE, steps=2)
    made = editor("z-image")
    with pytest.raises(PipelineError, match=r"the prompt has \d+ tokens"):
        made.generate("a" * 80, size=SIZE, steps=2)
    with pytest.raises(PipelineError, match=r"64x40 pixels is 8x5 tokens, .* a multiple of 32 .* to 64x32"):
        made.generate("a", size=(40, 64), steps=2)
    with pytest.raises(PipelineError, match="64x512 pixels is larger than the 256x256"):
        made.generate("a", size=(512, 8 * 8), steps=2)


SAVED = ("fill", "kontext", "qwen", "klein", "klein-kv", "z-image", "sd3", "chroma", "pixart", "sana", "sprint")


@pytest.mark.parametrize("name", SAVED)
def test_folders_as_diffusers_saves_them(name, tmp_path):
    pipe = pipeline(name)
    pipe.save_pretrained(tmp_path / name)
    options = {"prompt": "a b", "steps": 2, "strength": 0.5, "guidance": 2.0}
    loaded = Editor.from_pretrained(tmp_path / name, policy="exact", device="cpu")
    for setting in ("prompt_template_encode", "prompt_template_encode_start_idx", "tokenizer_max_length"):
        if hasattr(pipe, setting):
            setattr(loaded.model.pipe, setting, getattr(pipe, setting))
    sessions = [made.open(picture(name), **options) for made in (loaded, editor(name, "exact"))]
    found = [np.asarray(session.edit(painted(session.pixels)).image) for session in sessions]
    assert np.array_equal(*found)


@pytest.mark.parametrize("name", ["flux", "qwen", "sd3", "chroma", "pixart", "sana", "sprint"])
def test_what_these_models_do_not_take(name):
    made = editor(name)
    if name in ("flux", "sprint"):
        with pytest.raises(PipelineError, match="takes no negative prompt"):
            made.generate("a", size=SIZE, negative="b", steps=2)
    else:
        with pytest.raises(PipelineError, match=r"the negative prompt has .* tokens"):
            made.generate("a", size=SIZE, negative="a b c d e f g h i j", steps=2)
    with pytest.raises(PipelineError, match=r"the prompt has .* tokens, and the text encoder reads .* at most"):
        made.generate("a b c d e f g h i j", size=SIZE, steps=2)
    with pytest.raises(PipelineError, match=f"multiples of {made.model.multiple}"):
        made.generate("a", size=(62, 64), steps=2)


def test_a_family_that_is_not_there_is_named_with_those_that_are():
    strange = type("StrangePipeline", (), {"transformer": torch.nn.Identity(), "scheduler": None})()
    with pytest.raises(PipelineError, match=r"StrangePipeline is not supported; .* FluxPipeline"):
        Editor(strange)


def test_a_family_that_is_not_there_is_named_before_weights_are_read(tmp_path):
    pipe = {"_class_name": "NewPipeline", "_diffusers_version": "9.9", "transformer": ["diffusers", "NewModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(pipe))
    with pytest.raises(PipelineError, match=r"NewPipeline is not supported; .* QwenImagePipeline"):
        Editor.from_pretrained(tmp_path)


def test_a_model_that_makes_pictures_of_others_does_not_generate():
    with pytest.raises(PipelineError, match="FluxKontextPipeline makes pictures of others; open one"):
        editor("kontext").generate("a", size=SIZE, steps=2)


def test_stable_diffusion_3_without_t5_loads_from_its_folder(tmp_path):
    parts = {**pipeline("sd3").components, "text_encoder_3": None, "tokenizer_3": None}
    StableDiffusion3Pipeline(**parts).save_pretrained(tmp_path)
    loaded = Editor.from_pretrained(str(tmp_path))
    assert loaded.model.pipe.text_encoder_3 is None
    session = loaded.open(picture("sd3"), prompt="a b", steps=2, strength=0.5)
    assert dict(session.conditioning.inputs)["encoder_hidden_states"].shape[1] == 8 + 256
