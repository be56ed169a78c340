"""Pipelines with a U-Net: in pixels (DDPM, DDIM), and in latents of an autoencoder (Stable Diffusion, SDXL)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from retouch.editing.calls import run_whole
from retouch.editing.diffusion.adapters import Adapters
from retouch.editing.diffusion.families import transformer_of
from retouch.editing.diffusion.latents import LatentModel
from retouch.editing.diffusion.model import ADDED, Conditioning, Model, Networks, PipelineError
from retouch.errors import OptionError
from retouch.kernels.devices import HOST, device_of
from retouch.plan.policy import Policy


class _WithUNet(Model):
    """What both have in common: the U-Net's sizes and arguments."""

    def __init__(self, pipe: Any, policy: Policy, backend: str, *vae: nn.Module | None) -> None:
        super().__init__(pipe, policy, backend, *vae)
        config = pipe.unet.config
        any_number = config.get("class_embed_type") == "timestep"
        self.classes = math.inf if any_number else config.get("num_class_embeds") or 0

    @property
    def denoiser(self) -> nn.Module:
        """The U-Net, with its adapters."""
        return self.adapters.denoiser

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
        """Sample, time step and class."""
        found = {"sample": x.to(self.dtype), "timestep": time.float(), "return_dict": False}
        if conditioning.class_label is not None:
            found["class_labels"] = torch.full((len(x),), conditioning.class_label)
        return found


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

    def read(self, prompt: str | None, negative: str | None, guidance: float, size: tuple[int, int]) -> Conditioning:
        """Nothing; PipelineError for texts, which these networks do not read."""
        if prompt is not None or negative is not None:
            raise PipelineError(f"{type(self.pipe).__name__} takes no prompt: its network does not read words")
        return Conditioning()


class LatentUNetModel(_WithUNet, LatentModel):
    """Stable Diffusion 1.x and 2.x, their inpainting variants included (nine input channels)."""

    def __init__(self, pipe: Any, policy: Policy, backend: str, vae: nn.Module | None = None) -> None:
        super().__init__(pipe, policy, backend, vae)
        extra = self.pipe.unet.config.in_channels - self.channels
        if extra not in (0, 1 + self.channels):
            raise PipelineError(f"a U-Net with {extra} channels beside the image's {self.channels} is not supported")
        self.inpaints = extra > 0
        self.distilled = bool(self.pipe.unet.config.get("time_cond_proj_dim"))

    def compiled(self, size: tuple[int, int], conditioning: Conditioning) -> Networks:
        """The U-Net, the encoder and the decoder, each with its convolution of one position, and ControlNets."""
        controls = self.compile_controls(size)
        guides = replace(conditioning.guides, controls=self.adapters.blank(size).controls)
        steered = self.steered(controls, replace(conditioning, guides=guides), lambda name, *read: run_whole(*read))
        return replace(super().compiled(size, steered), controls=controls)

    @property
    def modules(self) -> list[nn.Module]:
        """Those of every latent model, and ControlNets."""
        return [*super().modules, *self.adapters.once().values()]

    def inputs(self, x: Tensor, time: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """Guidance runs a batch of two, without and with the texts."""
        count = 2 if conditioning.guided else 1
        found = {**super().inputs(torch.cat([x] * count), time, conditioning), **dict(conditioning.inputs)}
        if conditioning.features:
            found["features"] = [[torch.cat([f] * count) for f in each] for each in conditioning.features]
        return found

    def extended(self, x: Tensor, mask: Tensor | None = None, visible: Tensor | None = None) -> Tensor:
        """`x`, for inpainting models with the mask and the latent of what is not repainted."""
        if not self.inpaints:
            return x
        mask = torch.zeros_like(x[:, :1]) if mask is None else mask
        return torch.cat([x, mask, torch.zeros_like(x) if visible is None else visible], 1)

    def read(self, prompt: str | None, negative: str | None, guidance: float, size: tuple[int, int]) -> Conditioning:
        """With the embeddings of a prompt ("" when there is none) and of what to avoid.

        PipelineError for something to avoid where the network reads the scale of guidance: it runs without that.
        """
        if self.distilled and negative:
            raise PipelineError(f"{type(self.pipe).__name__} takes no negative prompt: its U-Net reads the guidance")
        texts = Conditioning(prompt or "", negative or "", guidance, distilled=self.distilled)
        return replace(texts, inputs=tuple({**self.embeddings(texts, size), **self._scale(guidance)}.items()))

    def _scale(self, guidance: float) -> dict[str, Tensor]:
        """The scale of guidance as an input; diffusers counts it from 1, and these networks from 0."""
        if not self.distilled:
            return {}
        channels = self.pipe.unet.config.time_cond_proj_dim
        found = self.pipe.get_guidance_scale_embedding(torch.tensor([guidance - 1.0]), embedding_dim=channels)
        return {"timestep_cond": found.to(self.dtype)}

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

    def __init__(self, pipe: Any, policy: Policy, backend: str, vae: nn.Module | None = None) -> None:
        super().__init__(pipe, policy, backend, vae)
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
            ADDED: {"text_embeds": pooled.to(HOST, self.dtype), "time_ids": times},
        }


def model_of(pipe: Any, policy: Policy, backend: str, vae: nn.Module | None = None) -> Model:
    """The model in a diffusers pipeline; PipelineError with the reason when it is not supported.

    vae: an autoencoder in the place of the pipeline's own.
    """
    if isinstance(getattr(pipe, "transformer", None), nn.Module):
        return transformer_of(pipe, policy, backend, vae)
    _check(pipe)
    name = type(pipe).__name__
    if getattr(pipe, "vae", None) is None:
        config = pipe.unet.config
        if vae is not None:
            raise PipelineError(f"{name} has no autoencoder that another one could take the place of")
        if config.in_channels != 3 or config.out_channels != 3:
            raise PipelineError(
                f"{name} is not supported: a U-Net without an autoencoder must map 3 channels to 3, "
                f"not {config.in_channels} to {config.out_channels}"
            )
        return UNetModel(pipe, policy, backend)
    if getattr(pipe, "text_encoder_2", None) is not None:
        return LatentUNetModelXL(pipe, policy, backend, vae)
    if getattr(pipe, "text_encoder", None) is None:
        raise PipelineError(f"{name} is not supported: it has an autoencoder but no text encoder")
    return LatentUNetModel(pipe, policy, backend, vae)


def _check(pipe: Any) -> None:
    """PipelineError unless there is a U-Net that reads nothing that sessions do not have."""
    name, unet = type(pipe).__name__, getattr(pipe, "unet", None)
    config: Any = getattr(unet, "config", None)
    if not isinstance(unet, nn.Module) or getattr(pipe, "scheduler", None) is None:
        raise PipelineError(
            f"{name} is not supported: editing needs a pipeline with a U-Net and a scheduler "
            "(DDPM, DDIM, Stable Diffusion 1.x, 2.x, SDXL)"
        )
    if (embedded := config.get("class_embed_type")) not in (None, "timestep"):
        raise PipelineError(f"{name} is not supported: its U-Net reads classes as vectors ({embedded})")
    try:
        Adapters(pipe)
    except OptionError as error:
        raise PipelineError(str(error)) from error
    if config.get("time_cond_proj_dim") and not hasattr(pipe, "get_guidance_scale_embedding"):
        raise PipelineError(f"{name} is not supported: its U-Net reads the guidance scale, which it does not embed")
