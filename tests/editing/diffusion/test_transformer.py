"""Sessions on pipelines with a transformer: what they show is what diffusers' pipelines make."""

import numpy as np
import pytest
import torch
from PIL import Image

from editing.diffusion.test_session import contents, distance, editor, equal, opened
from pipelines import LATENT_PIXELS, painted, pipeline
from retouch import Editor, PipelineError

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

SIZE = (LATENT_PIXELS, LATENT_PIXELS)


PACKED = ("flux", "flux-dev", "fill", "kontext", "qwen")
"""Those that take their noise as tokens."""
QWEN3 = ("klein", "klein-base", "klein-kv", "klein-inpaint", "z-image", "z-image-inpaint")
LONGEST = {"qwen": 8, **dict.fromkeys(QWEN3, 64)}
"""Tokens that the text encoder reads, where they are not ten."""
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
}


def made(name, session, noise, **options):
    """The picture `[H, W, 3]` that diffusers' pipeline makes of a latent of noise."""
    pipe = pipeline(name)
    pipe.set_progress_bar_config(disable=True)
    if name in PACKED:
        noise = pipe._pack_latents(noise, 1, *noise.shape[1:])
    words = LONGEST.get(name, 10)
    image = pipe(
        prompt="a b", height=SIZE[0], width=SIZE[1], num_inference_steps=3, latents=noise, output_type="np",
        max_sequence_length=words, **options,
    ).images[0]  # fmt: skip
    return (image * 255).round()


@pytest.mark.parametrize("case", GENERATED)
def test_a_generated_session_shows_what_the_pipeline_makes_of_the_same_noise(case):
    name, options, given = GENERATED[case]
    session = editor(name).generate("a b", size=SIZE, steps=3, seed=5, **options)
    noise = session.sampler.noise(session.model.latent_shape(SIZE))
    assert distance(session.pixels, made(name, session, noise, **given)) <= 1
    for net in session.networks().values():
        assert net.explain().fallbacks == []


@pytest.mark.parametrize("name", ["klein-inpaint", "z-image-inpaint"])
def test_repainting_shows_what_the_pipeline_makes_of_the_same_noise(name, monkeypatch):
    session = opened(name, "exact", steps=3, strength=1.0, prompt="c", guidance=0.0)
    mask, before, clean = np.zeros(SIZE, bool), session.pixels, session.version.tensors["latents"][-1:]
    mask[16:32, 24:40] = True
    noise = session.sampler.noise(session.model.latent_shape(SIZE))
    edited = np.asarray(session.inpaint(mask, prompt="a b", strength=1.0).image)
    if name == "z-image-inpaint":  # draws another noise for the rest, and the latent of the picture
        monkeypatch.setattr(pipeline(name), "prepare_latents", lambda *_: (noise, noise, clean))
    pictures = {"image": Image.fromarray(before), "mask_image": Image.fromarray(mask), "strength": 1.0}
    expected = made(name, session, noise, **pictures, guidance_scale=0.0)
    assert distance(edited[mask], expected[mask]) <= 1
    assert distance(edited[mask], before[mask]) > 20


def test_the_shift_of_the_schedule_follows_the_size():
    made = editor("flux")
    small, large = (made.model.schedule(size, 4) for size in (SIZE, (256, 256)))
    assert np.allclose(small["sigmas"], [1, 0.75, 0.5, 0.25])
    assert small["mu"] < large["mu"]


def test_sessions_are_saved_and_opened_again(tmp_path):
    session = opened("flux", folder=tmp_path / "s")
    session.edit(painted(session.pixels))
    kept, shown = contents(session), np.array(session.pixels)
    session.close()
    with editor("flux").restore(tmp_path / "s") as again:
        assert np.array_equal(again.pixels, shown)
        assert equal(contents(again), kept)
        again.edit(painted(again.pixels, 30, 20))
        again.undo()
        assert np.array_equal(again.pixels, shown)


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


def test_what_these_models_do_not_take():
    made = editor("flux")
    with pytest.raises(PipelineError, match="takes no negative prompt"):
        made.generate("a", size=SIZE, negative="b", steps=2)
    with pytest.raises(PipelineError, match="multiples of 8"):
        made.generate("a", size=(60, 64), steps=2)
    strange = type("StrangePipeline", (), {"transformer": torch.nn.Identity(), "scheduler": None})()
    with pytest.raises(PipelineError, match=r"StrangePipeline is not supported; .* FluxPipeline"):
        Editor(strange)
