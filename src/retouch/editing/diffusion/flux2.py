"""FLUX.2 klein: a transformer on latents that its autoencoder packs 2x2 and normalises; texts of Qwen3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from PIL import Image
from torch import Tensor, nn

from retouch.editing.diffusion.adapters import Adapters
from retouch.editing.diffusion.chat import WORDS, chat
from retouch.editing.diffusion.guides import Picture
from retouch.editing.diffusion.model import Conditioning
from retouch.editing.diffusion.packed import PackedModel
from retouch.editing.diffusion.references import References
from retouch.editing.diffusion.transformer import check_length
from retouch.editing.images import ImageError
from retouch.kernels.devices import HOST, device_of, moved
from retouch.models.extras import diffusers
from retouch.models.packed import PackedFlux2
from retouch.plan.policy import Policy

SEVERAL = 10
"""References of FLUX.2 at most."""

LARGEST = 1024 * 1024
"""Pixels of a reference, beyond which it is scaled down."""


class Flux2Model(PackedModel):
    """FLUX.2 klein, distilled or base: guidance is none, or a second run without the words."""

    side = 1
    several = SEVERAL
    """References at most."""

    def __init__(self, pipe: Any, policy: Policy, backend: str, vae: nn.Module | None = None) -> None:
        super().__init__(pipe, policy, backend, vae)
        self.distilled = "its network is distilled" if pipe.config.get("is_distilled", True) else ""

    @property
    def adapters(self) -> Adapters:
        """References."""
        return References(self.pipe, self.several)

    @staticmethod
    def on_latents(pipe: Any) -> nn.Module:
        """The transformer, on latents."""
        return PackedFlux2(pipe.transformer)

    @property
    def default_size(self) -> tuple[int, int]:
        """As the pipeline has it."""
        size = int(self.pipe.default_sample_size) * self.factor // self.packed
        return size, size

    def schedule(self, size: tuple[int, int], steps: int) -> dict[str, Any]:
        """Levels of noise in equal steps down to one of them, shifted by a rule of this family's own."""
        count = size[0] * size[1] // self.multiple**2
        found = super().schedule(size, steps)
        if self.pipe.scheduler.config.get("use_flow_sigmas"):
            del found["sigmas"]
        return {**found, "mu": diffusers().pipelines.flux2.pipeline_flux2_klein.compute_empirical_mu(count, steps)}

    def tokens(self, latent: Tensor) -> Tensor:
        """Every position is one."""
        return latent.flatten(2).transpose(1, 2)

    def with_pictures(self, texts: Conditioning) -> Conditioning:
        """With references, scaled as the pipeline does: to a megapixel at most, and cut to whole tokens."""
        read = self.references([self._scaled(picture) for picture in texts.guides.prompts], texts)
        return replace(texts, inputs=(*texts.inputs, *read.items()))

    def _scaled(self, picture: Picture) -> Image.Image:
        found, processor = Image.fromarray(picture.pixels), self.pipe.image_processor
        try:
            processor.check_image_input(found)
        except ValueError as error:
            raise ImageError(f"a picture that is given as image prompt cannot be read: {error}") from None
        if found.width * found.height > LARGEST:
            found = processor._resize_to_target_area(found, LARGEST)
        height, width = (n // self.multiple * self.multiple for n in (found.height, found.width))
        scaled: Image.Image = processor.resize(found, height, width, "crop")
        return scaled

    def encoded(self, texts: Conditioning) -> dict[str, Tensor]:
        """Three layers of Qwen3 side by side; where texts guide without and with them."""
        longest, tokenizer = min(WORDS, self.pipe.tokenizer.model_max_length), self.pipe.tokenizer
        check_length(tokenizer, longest, texts, chat(tokenizer, thinking=False))
        prompts = [str(texts.negative), str(texts.prompt)] if texts.guided else [str(texts.prompt)]
        device = device_of(self.pipe.text_encoder)
        tokens, _ = self.pipe.encode_prompt(prompts, device=device, max_sequence_length=longest)
        return {"encoder_hidden_states": tokens}


class Flux2InpaintModel(Flux2Model):
    """The same, which reads the latent of the picture beside the noise, as `Flux2KleinInpaintPipeline` does."""

    refers = True
    several = 1


class Flux2KVModel(Flux2Model):
    """The same, whose references see themselves alone and no time: their keys and values are those of every step, and
    are computed once for pictures.
    """

    def references(self, pictures: Sequence[Image.Image], texts: Conditioning) -> dict[str, Any]:
        """Keys and values of pictures in every block; nothing of none."""
        denoiser: Any = self._denoiser
        found = super().references(pictures, texts)
        return {"cached": moved(denoiser.cached(**moved(found, device_of(denoiser))), HOST)} if found else {}
