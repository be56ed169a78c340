"""How far an edit may be from what the dense model makes of it, from what the edit itself shows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from retouch.region import dilate


@dataclass(frozen=True)
class Evidence:
    """What an edit shows of its own error.

    moved, missed: how far the probes of the networks moved, and how far their fits miss them, as shares of the
        deviation of the rows (`Recording.movement`), averaged over the denoising steps and over the networks.
    border: root mean square change of the latent at the region's inner border, where it is cut off.
    share: of the positions of the latent that the region covers.
    """

    moved: float
    missed: float
    border: float
    share: float

    @staticmethod
    def of(movements: Mapping[str, tuple[float, float]], old: Tensor, new: Tensor, inside: Tensor) -> Evidence | None:
        """From the movement of every network call, and the final latents `[C, h, w]` in the region `[1, 1, h, w]`.

        None where a network ran without probes.
        """
        if not movements:
            return None
        steps = [found for name, found in movements.items() if name.startswith("step-")]
        others = [found for name, found in movements.items() if not name.startswith("step-")]
        means = np.array([np.mean(part, 0) for part in (steps, *([x] for x in others)) if part]).mean(0)
        mask = inside[0].numpy()
        rim = torch.from_numpy(mask & dilate(~mask, 1))[0]
        change = (new - old)[:, rim].square().mean() if rim.any() else torch.zeros(())
        return Evidence(float(means[0]), float(means[1]), float(change.sqrt()), float(mask.mean()))

    @property
    def features(self) -> tuple[float, ...]:
        """Logarithms, and a constant: what the estimate is linear in."""
        return (1.0, *(math.log(max(x, 1e-6)) for x in (self.moved, self.missed, self.border, self.share)))

    @property
    def error(self) -> float:
        """The estimate: root mean square difference from the dense model inside the region, in grey levels."""
        return math.exp(sum(a * x for a, x in zip(WEIGHTS, self.features, strict=True)))


WEIGHTS = (2.366, -0.169, 0.596, 0.395, -0.151)
"""Fitted on the quality suite; see benchmarks/quality.md."""
