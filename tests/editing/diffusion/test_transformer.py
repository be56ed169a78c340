"""Sessions on pipelines with a transformer: what they show is what diffusers' pipelines make."""

import numpy as np
import pytest
import torch

from editing.diffusion.test_session import contents, distance, editor, equal, opened
from pipelines import LATENT_PIXELS, painted, pipeline
from retouch import Editor, PipelineError

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

SIZE = (LATENT_PIXELS, LATENT_PIXELS)
LONGEST = {"klein": 64, "klein-base": 64, "z-image": 64}
"""Tokens that the text encoder reads, where they are not six."""


@pytest.mark.parametrize(("name", "options"), [
    ("flux", {}), ("sd3", {"guidance": 4.0, "negative": "c d"}), ("sd3", {"guidance": 1.0}), ("klein", {}),
    ("klein-base", {"guidance": 4.0}), ("z-image", {"guidance": 0.0}), ("z-image", {"guidance": 4.0, "negative": "c"}),
    ("z-image", {"guidance": 4.0, "negative": "c d" * 11}),
])  # fmt: skip
def test_a_generated_session_shows_what_the_pipeline_makes_of_the_same_noise(name, options):
    session = editor(name).generate("a b", size=SIZE, steps=3, seed=5, **options)
    pipe, noise = pipeline(name), session.sampler.noise(session.model.latent_shape(SIZE))
    pipe.set_progress_bar_config(disable=True)
    if name == "flux":
        noise = pipe._pack_latents(noise, 1, *noise.shape[1:])
    elif options:
        named = {"guidance": "guidance_scale", "negative": "negative_prompt"}
        options = {named[key]: value for key, value in options.items()}
    image = pipe(
        prompt="a b", height=SIZE[0], width=SIZE[1], num_inference_steps=3, latents=noise, output_type="np",
        max_sequence_length=LONGEST.get(name, 6), **options,
    ).images[0]  # fmt: skip
    assert distance(session.pixels, (image * 255).round()) <= 1
    assert session.nets.denoiser.explain().fallbacks == []


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


def test_what_these_models_do_not_take():
    made = editor("flux")
    with pytest.raises(PipelineError, match="takes no negative prompt"):
        made.generate("a", size=SIZE, negative="b", steps=2)
    with pytest.raises(PipelineError, match="multiples of 8"):
        made.generate("a", size=(60, 64), steps=2)
    strange = type("StrangePipeline", (), {"transformer": torch.nn.Identity(), "scheduler": None})()
    with pytest.raises(PipelineError, match=r"StrangePipeline is not supported; .* FluxPipeline"):
        Editor(strange)
