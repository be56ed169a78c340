"""Transformers of flow matching, run along an angle."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class TrigFlow(nn.Module):
    """A transformer of diffusers that was trained on straight paths, on latents `cos(t) z + sin(t) n`; (prediction,).

    It predicts `cos(t) n - sin(t) z`. Source: Chen et al., "SANA-Sprint" (arXiv 2503.09641), section 3.1.
    """

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, hidden_states: Tensor, timestep: Tensor, **others: Any) -> tuple[Tensor]:
        """The prediction for latents `[B, C, h, w]` at angles `[B]`, 0 to pi / 2; `others` are the transformer's."""
        sin, cos = torch.sin(timestep), torch.cos(timestep)
        time = sin / (cos + sin)
        t = time[:, None, None, None]
        length = torch.sqrt(t**2 + (1 - t) ** 2)
        x = hidden_states * length
        found = self.transformer(x.to(hidden_states.dtype), timestep=time, **others)[0]
        return (((1 - 2 * t) * x + (1 - 2 * t + 2 * t**2) * found) / length,)
