"""One step of a diffusion process as a call of a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from retouch.editing.diffusion.model import Conditioning, Model
from retouch.editing.diffusion.sampler import Sampler


@dataclass(frozen=True)
class Denoiser:
    """What the denoiser of a model predicts along a schedule."""

    model: Model
    sampler: Sampler

    def step(
        self,
        call: Callable[..., Any],
        i: int,
        x: Tensor,
        conditioning: Conditioning,
        mask: Tensor | None = None,
        visible: Tensor | None = None,
    ) -> Tensor:
        """The prediction float32 `[1, C, h, w]` for the latent `x` of the same shape at step i, guided.

        call: runs the network, with the network's arguments by name: a recording, an update, or the module itself.
        mask, visible: for models that inpaint, the positions that are repainted `[1, 1, h, w]` and the latent of the
            others.
        """
        read = self.model.extended(self.sampler.model_input(x, i), mask, visible)
        inputs = self.model.arguments(read, self.sampler.times[i : i + 1], conditioning)
        return self.model.output(call(**inputs), conditioning)


def snapshot_name(i: int) -> str:
    """The name of the snapshots of step i."""
    return f"step-{i:03d}"
