"""Transformers that read squares of 2x2 positions of a latent as tokens."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from retouch.editing.diffusion.transformer import TransformerModel
from retouch.plan.policy import Policy


def packed(latent: Tensor) -> Tensor:
    """Tokens `[B, h/2 * w/2, 4C]` of a latent `[B, C, h, w]`."""
    b, c, height, width = latent.shape
    h, w = height // 2, width // 2
    return latent.view(b, c, h, 2, w, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w, 4 * c)


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """The latent `[B, C, height, width]` of its tokens."""
    h, w, c = height // 2, width // 2, tokens.shape[2] // 4
    return tokens.view(-1, h, w, c, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(-1, c, height, width)


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

    def schedule(self, size: tuple[int, int], steps: int) -> dict[str, Any]:
        """Levels of noise in equal steps down to one of them."""
        levels = torch.linspace(1.0, 1.0 / steps, steps, dtype=torch.float64).numpy()
        return {**super().schedule(size, steps), "sigmas": levels}
