"""Transformers that read squares of 2x2 positions of a latent as tokens."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from retouch.editing.diffusion.model import Conditioning
from retouch.editing.diffusion.transformer import TransformerModel
from retouch.plan.policy import Policy


class PackedModel(TransformerModel):
    """A transformer of packed latents, which is compiled on latents."""

    def __init__(self, pipe: Any, policy: Policy, backend: str, vae: nn.Module | None = None) -> None:
        self._denoiser = self.on_latents(pipe)
        super().__init__(pipe, policy, backend, vae)

    @staticmethod
    @abstractmethod
    def on_latents(pipe: Any) -> nn.Module:
        """The transformer of a pipeline as a network on latents."""

    @property
    def denoiser(self) -> nn.Module:
        """The transformer, on latents."""
        return self._denoiser

    def inputs(self, x: Tensor, time: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """Latents, time from 0 to 1 and texts; guidance runs a batch of two, without and with the words."""
        batch = torch.cat([x, x]) if conditioning.guided else x
        times = (time.to(self.dtype) / 1000).expand(len(batch)).contiguous()
        return {"sample": batch.to(self.dtype), "timestep": times, **dict(conditioning.inputs)}

    def schedule(self, size: tuple[int, int], steps: int) -> dict[str, Any]:
        """Levels of noise in equal steps down to one of them."""
        levels = torch.linspace(1.0, 1.0 / steps, steps, dtype=torch.float64).numpy()
        return {**super().schedule(size, steps), "sigmas": levels}
