"""Diffusion pipelines as networks to record: what each reads, and how pixels become latents and back.

A pipeline itself is never changed: its modules are compiled, its schedulers copied.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import retouch.incremental as incremental
from retouch.editing.images import MAX_PIXELS
from retouch.errors import RetouchError
from retouch.incremental import Incremental
from retouch.kernels.devices import HOST, device_of, moved
from retouch.models.vae import Chain
from retouch.plan.region import Policy


class PipelineError(RetouchError, ValueError):
    """A pipeline that editing does not support, or a size or prompt that it cannot take."""


@dataclass(frozen=True)
class Words:
    """What an image is conditioned on: the texts, their embeddings and the scale of guidance."""

    prompt: str | None = None
    negative: str | None = None
    guidance: float = 1.0
    inputs: tuple[tuple[str, Any], ...] = ()

    @property
    def guided(self) -> bool:
        """True when every step runs the network with and without the words (classifier-free guidance)."""
        return self.prompt is not None and self.guidance > 1.0


@dataclass(frozen=True)
class Networks:
    """The compiled networks of a pipeline at one size; encoder and decoder of latent models only."""

    denoiser: Incremental
    encoder: Incremental | None = None
    decoder: Incremental | None = None

    def named(self) -> dict[str, Incremental]:
        """The networks there are, by name."""
        found = {"denoiser": self.denoiser, "encoder": self.encoder, "decoder": self.decoder}
        return {name: net for name, net in found.items() if net is not None}


class Model:
    """A pixel-space U-Net (DDPM, DDIM and progressive-distillation checkpoints)."""

    factor = 1
    words = False
    inpaints = False

    def __init__(self, pipe: Any, policy: Policy, backend: str) -> None:
        self.pipe, self.policy, self.backend = pipe, policy, backend
        self.unet: nn.Module = pipe.unet
        self.dtype: torch.dtype = next(self.unet.parameters()).dtype
        self._compiled: dict[tuple[int, int, bool], Networks] = {}

    @property
    def channels(self) -> int:
        """Channels of the noised image."""
        return int(self.pipe.unet.config.out_channels)

    @property
    def multiple(self) -> int:
        """Height and width must be multiples of this many pixels."""
        levels = len(self.pipe.unet.config.block_out_channels) - 1
        return self.factor * 2**levels

    @property
    def default_size(self) -> tuple[int, int]:
        """Height and width that the network was trained for."""
        size = self.pipe.unet.config.sample_size or 64
        height, width = (size, size) if isinstance(size, int) else size
        return height * self.factor, width * self.factor

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Shape of the noised image `[1, C, h, w]` for pixels (H, W)."""
        return (1, self.channels, size[0] // self.factor, size[1] // self.factor)

    def check_size(self, size: tuple[int, int]) -> None:
        """PipelineError unless the network divides the size (H, W)."""
        height, width = size
        if height * width > MAX_PIXELS:
            raise PipelineError(f"an image of {width}x{height} pixels is larger than {MAX_PIXELS >> 20} megapixels")
        if height % self.multiple or width % self.multiple or not height or not width:
            fit = [max(1, round(n / self.multiple)) * self.multiple for n in size]
            raise PipelineError(
                f"an image of {width}x{height} pixels does not fit: width and height must be multiples of "
                f"{self.multiple}; crop or resize it, to {fit[1]}x{fit[0]} for example"
            )

    # Networks

    def networks(self, size: tuple[int, int], words: Words) -> Networks:
        """The compiled networks for pixels (H, W); compiled once for each size."""
        self.check_size(size)
        key = (*size, words.guided)
        if key not in self._compiled:
            self._compiled[key] = self._networks(size, words)
        return self._compiled[key]

    def _networks(self, size: tuple[int, int], words: Words) -> Networks:
        return Networks(self._denoiser(size, words))

    def _denoiser(self, size: tuple[int, int], words: Words) -> Incremental:
        x = torch.zeros(self.latent_shape(size), dtype=self.dtype)
        time = torch.ones(1)
        inputs = self.inputs(self.extended(x, None, None), time, words)
        return self.compile(self.unet, **inputs)

    def compile(self, module: nn.Module, *args: Any, **kwargs: Any) -> Incremental:
        """A module compiled with the editor's policy and backend."""
        args, kwargs = moved((args, kwargs), device_of(module))
        return incremental.compile(module.eval(), args, kwargs, policy=self.policy, backend=self.backend)

    # One evaluation

    def inputs(self, x: Tensor, time: Tensor, words: Words) -> dict[str, Any]:
        """Arguments of the U-Net for `x` `[1, C, h, w]` at a time step `[1]`."""
        return {"sample": x.to(self.dtype), "timestep": time.float(), "return_dict": False}

    def extended(self, x: Tensor, mask: Tensor | None, visible: Tensor | None) -> Tensor:
        """`x` with the further channels that the U-Net reads; see `LatentModel`."""
        return x

    def output(self, result: Any, words: Words) -> Tensor:
        """float32 prediction `[1, C, h, w]` from what the U-Net returned."""
        found: Tensor = result[0]
        return found.float()

    # Pixels: float32 [1, 3, H, W] in [-1, 1]

    def encoder_input(self, pixels: Tensor) -> Tensor:
        """What the encoder reads."""
        return pixels

    def latent(self, encoded: Tensor) -> Tensor:
        """The noiseless latent from what the encoder returned, or from pixels."""
        return encoded

    def pixels(self, decoded: Tensor) -> Tensor:
        """Pixels from what the decoder returned, or from the finished latent."""
        return decoded

    def decoder_input(self, latent: Tensor) -> Tensor:
        """What the decoder reads."""
        return latent

    # Words

    def encode_words(self, prompt: str | None, negative: str | None, guidance: float, size: tuple[int, int]) -> Words:
        """PipelineError when a prompt is given: these networks read none."""
        if prompt is not None or negative is not None:
            raise PipelineError(f"{type(self.pipe).__name__} takes no prompt: its network does not read words")
        return Words()


class LatentModel(Model):
    """Stable Diffusion 1.x and 2.x, their inpainting variants included (nine input channels)."""

    words = True

    def __init__(self, pipe: Any, policy: Policy, backend: str) -> None:
        super().__init__(pipe, policy, backend)
        self.vae: Any = pipe.vae
        self.factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        extra = self.pipe.unet.config.in_channels - self.channels
        if extra not in (0, 1 + self.channels):
            raise PipelineError(f"a U-Net with {extra} channels beside the image's {self.channels} is not supported")
        self.inpaints = extra > 0

    def _networks(self, size: tuple[int, int], words: Words) -> Networks:
        pixels = torch.zeros(1, 3, *size, dtype=self.vae.dtype)
        latent = torch.zeros(self.latent_shape(size), dtype=self.vae.dtype)
        before, after = self.vae.post_quant_conv, self.vae.quant_conv
        encoder = Chain(self.vae.encoder, nn.Identity() if after is None else after)
        decoder = Chain(nn.Identity() if before is None else before, self.vae.decoder)
        return Networks(self._denoiser(size, words), self.compile(encoder, pixels), self.compile(decoder, latent))

    def inputs(self, x: Tensor, time: Tensor, words: Words) -> dict[str, Any]:
        """As for `Model`; guidance runs a batch of two, without and with the words."""
        batch = torch.cat([x, x]) if words.guided else x
        return {**super().inputs(batch, time, words), **dict(words.inputs)}

    def extended(self, x: Tensor, mask: Tensor | None, visible: Tensor | None) -> Tensor:
        """`x`, the mask of what is repainted `[1, 1, h, w]` and the latent of what is not, for inpainting models."""
        if not self.inpaints:
            return x
        mask = torch.zeros_like(x[:, :1]) if mask is None else mask
        return torch.cat([x, mask, torch.zeros_like(x) if visible is None else visible], 1)

    def output(self, result: Any, words: Words) -> Tensor:
        """As for `Model`, guided (Ho and Salimans, arXiv 2207.12598)."""
        found = super().output(result, words)
        if not words.guided:
            return found
        without, with_words = found.chunk(2)
        return without + words.guidance * (with_words - without)

    def encoder_input(self, pixels: Tensor) -> Tensor:
        """Pixels in the autoencoder's type."""
        return pixels.to(self.vae.dtype)

    def latent(self, encoded: Tensor) -> Tensor:
        """The mean of the encoder's distribution, scaled."""
        mean = encoded[:, : self.channels].float()
        return (mean - self._shift) * self.vae.config.scaling_factor

    def decoder_input(self, latent: Tensor) -> Tensor:
        """The unscaled latent."""
        return (latent / self.vae.config.scaling_factor + self._shift).to(self.vae.dtype)

    def pixels(self, decoded: Tensor) -> Tensor:
        """float32 pixels."""
        return decoded.float()

    @property
    def _shift(self) -> float:
        return float(getattr(self.vae.config, "shift_factor", None) or 0.0)

    def encode_words(self, prompt: str | None, negative: str | None, guidance: float, size: tuple[int, int]) -> Words:
        """The text encoder's embeddings of a prompt ("" when there is none) and of what to avoid."""
        words = Words(prompt or "", negative or "", guidance)
        return replace(words, inputs=tuple(self._embeddings(words, size).items()))

    @torch.no_grad()
    def _embeddings(self, words: Words, size: tuple[int, int]) -> dict[str, Any]:
        embeddings, negatives = self.pipe.encode_prompt(
            words.prompt, device_of(self.pipe.text_encoder), 1, words.guided, negative_prompt=words.negative
        )[:2]
        both = torch.cat([negatives, embeddings]) if words.guided else embeddings
        return {"encoder_hidden_states": both.to(HOST, self.dtype)}


class LatentModelXL(LatentModel):
    """SDXL base: two text encoders, pooled embeddings and the image's size as further inputs."""

    def __init__(self, pipe: Any, policy: Policy, backend: str) -> None:
        super().__init__(pipe, policy, backend)
        if pipe.config.get("requires_aesthetics_score"):
            raise PipelineError("the SDXL refiner is not supported; use the base model")

    @torch.no_grad()
    def _embeddings(self, words: Words, size: tuple[int, int]) -> dict[str, Any]:
        texts, negatives, pooled, pooled_negatives = self.pipe.encode_prompt(
            prompt=words.prompt,
            negative_prompt=words.negative or None,  # SDXL was trained with zeros, not with the empty text
            device=device_of(self.pipe.text_encoder),
            num_images_per_prompt=1,
            do_classifier_free_guidance=words.guided,
        )
        if words.guided:
            texts, pooled = torch.cat([negatives, texts]), torch.cat([pooled_negatives, pooled])
        times = torch.tensor([[*size, 0, 0, *size]], dtype=self.dtype).repeat(len(pooled), 1)
        return {
            "encoder_hidden_states": texts.to(HOST, self.dtype),
            "added_cond_kwargs": {"text_embeds": pooled.to(HOST, self.dtype), "time_ids": times},
        }


def model_of(pipe: Any, policy: Policy, backend: str) -> Model:
    """The model in a diffusers pipeline; PipelineError with the reason when it is not supported."""
    name = type(pipe).__name__
    unet, vae = getattr(pipe, "unet", None), getattr(pipe, "vae", None)
    config: Any = getattr(unet, "config", None)
    if not isinstance(unet, nn.Module) or getattr(pipe, "scheduler", None) is None:
        raise PipelineError(
            f"{name} is not supported: editing needs a pipeline with a U-Net and a scheduler "
            "(DDPM, DDIM, Stable Diffusion 1.x, 2.x, SDXL)"
        )
    if getattr(config, "class_embed_type", None) or getattr(config, "num_class_embeds", None):
        raise PipelineError(f"{name} is not supported: its U-Net is conditioned on classes")
    if getattr(config, "time_cond_proj_dim", None):
        raise PipelineError(f"{name} is not supported: its U-Net reads the guidance scale (LCM)")
    if vae is None:
        if config.in_channels != 3 or config.out_channels != 3:
            raise PipelineError(
                f"{name} is not supported: a U-Net without an autoencoder must map 3 channels to 3, "
                f"not {config.in_channels} to {config.out_channels}"
            )
        return Model(pipe, policy, backend)
    if not all(hasattr(vae, part) for part in ("encoder", "decoder", "quant_conv", "post_quant_conv")):
        raise PipelineError(f"{name} is not supported: its autoencoder is a {type(vae).__name__}, not AutoencoderKL")
    if getattr(pipe, "text_encoder_2", None) is not None:
        return LatentModelXL(pipe, policy, backend)
    if getattr(pipe, "text_encoder", None) is None:
        raise PipelineError(f"{name} is not supported: it has an autoencoder but no text encoder")
    return LatentModel(pipe, policy, backend)
