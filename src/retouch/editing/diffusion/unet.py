"""Pipelines with a U-Net: in pixels (DDPM, DDIM), and in latents of an autoencoder (Stable Diffusion, SDXL)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from retouch.editing.diffusion.model import Conditioning, Model, Networks, PipelineError
from retouch.kernels.devices import HOST, device_of
from retouch.models.chain import Chain
from retouch.plan.policy import Policy


class _WithUNet(Model):
    """What both have in common: the U-Net's sizes and arguments."""

    @property
    def denoiser(self) -> nn.Module:
        """The U-Net."""
        found: nn.Module = self.pipe.unet
        return found

    @property
    def channels(self) -> int:
        """Channels of the noised image."""
        return int(self.pipe.unet.config.out_channels)

    @property
    def multiple(self) -> int:
        """Height and width must be multiples of this: every level halves."""
        levels = len(self.pipe.unet.config.block_out_channels) - 1
        return int(self.factor * 2**levels)

    @property
    def default_size(self) -> tuple[int, int]:
        """Height and width that the U-Net was trained for."""
        size = self.pipe.unet.config.sample_size or 64
        height, width = (size, size) if isinstance(size, int) else size
        return height * self.factor, width * self.factor

    def inputs(self, x: Tensor, time: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """Sample and time step."""
        return {"sample": x.to(self.dtype), "timestep": time.float(), "return_dict": False}

    def output(self, result: Any, conditioning: Conditioning) -> Tensor:
        """The first of what the U-Net returned."""
        found: Tensor = result[0]
        return found.float()


class UNetModel(_WithUNet):
    """A U-Net on pixels (DDPM, DDIM and progressive-distillation checkpoints): a latent is the picture."""

    def compiled(self, size: tuple[int, int], conditioning: Conditioning) -> Networks:
        """The U-Net alone."""
        return Networks(self.compile_denoiser(size, conditioning))

    def encoder_input(self, pixels: Tensor) -> Tensor:
        """Pixels as they are."""
        return pixels

    def latent(self, encoded: Tensor) -> Tensor:
        """Pixels as they are."""
        return encoded

    def decoder_input(self, latent: Tensor) -> Tensor:
        """Pixels as they are."""
        return latent

    def pixels(self, decoded: Tensor) -> Tensor:
        """Pixels as they are."""
        return decoded

    def condition(
        self, prompt: str | None, negative: str | None, guidance: float, size: tuple[int, int]
    ) -> Conditioning:
        """Nothing; PipelineError for texts, which these networks do not read."""
        if prompt is not None or negative is not None:
            raise PipelineError(f"{type(self.pipe).__name__} takes no prompt: its network does not read words")
        return Conditioning()


class LatentUNetModel(_WithUNet):
    """Stable Diffusion 1.x and 2.x, their inpainting variants included (nine input channels)."""

    reads_text = True

    def __init__(self, pipe: Any, policy: Policy, backend: str) -> None:
        super().__init__(pipe, policy, backend)
        self.vae: Any = pipe.vae
        self.factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        extra = self.pipe.unet.config.in_channels - self.channels
        if extra not in (0, 1 + self.channels):
            raise PipelineError(f"a U-Net with {extra} channels beside the image's {self.channels} is not supported")
        self.inpaints = extra > 0

    def compiled(self, size: tuple[int, int], conditioning: Conditioning) -> Networks:
        """The U-Net, the encoder and the decoder, each with its convolution of one position."""
        pixels = torch.zeros(1, 3, *size, dtype=self.vae.dtype)
        latent = torch.zeros(self.latent_shape(size), dtype=self.vae.dtype)
        before, after = self.vae.post_quant_conv, self.vae.quant_conv
        encoder = Chain(self.vae.encoder, nn.Identity() if after is None else after)
        decoder = Chain(nn.Identity() if before is None else before, self.vae.decoder)
        denoiser = self.compile_denoiser(size, conditioning)
        return Networks(denoiser, self.compile(encoder, pixels), self.compile(decoder, latent))

    def inputs(self, x: Tensor, time: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """Guidance runs a batch of two, without and with the texts."""
        batch = torch.cat([x, x]) if conditioning.guided else x
        return {**super().inputs(batch, time, conditioning), **dict(conditioning.inputs)}

    def extended(self, x: Tensor, mask: Tensor | None = None, visible: Tensor | None = None) -> Tensor:
        """`x`, for inpainting models with the mask and the latent of what is not repainted."""
        if not self.inpaints:
            return x
        mask = torch.zeros_like(x[:, :1]) if mask is None else mask
        return torch.cat([x, mask, torch.zeros_like(x) if visible is None else visible], 1)

    def output(self, result: Any, conditioning: Conditioning) -> Tensor:
        """Guided, after Ho and Salimans, arXiv 2207.12598."""
        found = super().output(result, conditioning)
        if not conditioning.guided:
            return found
        without, with_texts = found.chunk(2)
        return without + conditioning.guidance * (with_texts - without)

    def encoder_input(self, pixels: Tensor) -> Tensor:
        """Pixels in the autoencoder's type."""
        return pixels.to(self.vae.dtype)

    def latent(self, encoded: Tensor) -> Tensor:
        """The mean of the encoder's distribution, scaled."""
        mean = encoded[:, : self.channels].float()
        return (mean - self._shift) * float(self.vae.config.scaling_factor)

    def decoder_input(self, latent: Tensor) -> Tensor:
        """The unscaled latent."""
        return (latent / float(self.vae.config.scaling_factor) + self._shift).to(self.vae.dtype)

    def pixels(self, decoded: Tensor) -> Tensor:
        """float32 pixels."""
        return decoded.float()

    @property
    def _shift(self) -> float:
        return float(getattr(self.vae.config, "shift_factor", None) or 0.0)

    def condition(
        self, prompt: str | None, negative: str | None, guidance: float, size: tuple[int, int]
    ) -> Conditioning:
        """With the embeddings of a prompt ("" when there is none) and of what to avoid."""
        texts = Conditioning(prompt or "", negative or "", guidance)
        return replace(texts, inputs=tuple(self.embeddings(texts, size).items()))

    @torch.no_grad()
    def embeddings(self, texts: Conditioning, size: tuple[int, int]) -> dict[str, Any]:
        """What the denoiser reads of texts, on the host, for an image of `size` (H, W)."""
        embeddings, negatives = self.pipe.encode_prompt(
            texts.prompt, device_of(self.pipe.text_encoder), 1, texts.guided, negative_prompt=texts.negative
        )[:2]
        both = torch.cat([negatives, embeddings]) if texts.guided else embeddings
        return {"encoder_hidden_states": both.to(HOST, self.dtype)}


class LatentUNetModelXL(LatentUNetModel):
    """SDXL base: two text encoders, pooled embeddings and the image's size as further inputs."""

    def __init__(self, pipe: Any, policy: Policy, backend: str) -> None:
        super().__init__(pipe, policy, backend)
        if pipe.config.get("requires_aesthetics_score"):
            raise PipelineError("the SDXL refiner is not supported; use the base model")

    @torch.no_grad()
    def embeddings(self, texts: Conditioning, size: tuple[int, int]) -> dict[str, Any]:
        """Of both encoders, with their pooled embeddings and the image's size."""
        found, negatives, pooled, pooled_negatives = self.pipe.encode_prompt(
            prompt=texts.prompt,
            negative_prompt=texts.negative or None,  # SDXL was trained with zeros, not with the empty text
            device=device_of(self.pipe.text_encoder),
            num_images_per_prompt=1,
            do_classifier_free_guidance=texts.guided,
        )
        if texts.guided:
            found, pooled = torch.cat([negatives, found]), torch.cat([pooled_negatives, pooled])
        times = torch.tensor([[*size, 0, 0, *size]], dtype=self.dtype).repeat(len(pooled), 1)
        return {
            "encoder_hidden_states": found.to(HOST, self.dtype),
            "added_cond_kwargs": {"text_embeds": pooled.to(HOST, self.dtype), "time_ids": times},
        }


def model_of(pipe: Any, policy: Policy, backend: str) -> Model:
    """The model in a diffusers pipeline; PipelineError with the reason when it is not supported."""
    _check(pipe)
    name, vae = type(pipe).__name__, getattr(pipe, "vae", None)
    if vae is None:
        config = pipe.unet.config
        if config.in_channels != 3 or config.out_channels != 3:
            raise PipelineError(
                f"{name} is not supported: a U-Net without an autoencoder must map 3 channels to 3, "
                f"not {config.in_channels} to {config.out_channels}"
            )
        return UNetModel(pipe, policy, backend)
    if not all(hasattr(vae, part) for part in ("encoder", "decoder", "quant_conv", "post_quant_conv")):
        raise PipelineError(f"{name} is not supported: its autoencoder is a {type(vae).__name__}, not AutoencoderKL")
    if getattr(pipe, "text_encoder_2", None) is not None:
        return LatentUNetModelXL(pipe, policy, backend)
    if getattr(pipe, "text_encoder", None) is None:
        raise PipelineError(f"{name} is not supported: it has an autoencoder but no text encoder")
    return LatentUNetModel(pipe, policy, backend)


def _check(pipe: Any) -> None:
    """PipelineError unless there is a U-Net that reads nothing that sessions do not have."""
    name, unet = type(pipe).__name__, getattr(pipe, "unet", None)
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
