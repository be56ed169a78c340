"""Previews of an edit: what the denoiser takes the clean latent to be, as pixels by a linear map.

A latent's channels are nearly linear in colours, so three weights for each of them show enough, at the resolution of
the latent and for almost nothing. They are fitted by least squares on the session's own picture and its latent.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from retouch.editing.calls import Calls
from retouch.editing.diffusion.change import Change
from retouch.editing.diffusion.process import Process
from retouch.editing.images import Box, Pixels
from retouch.editing.jobs import Frames


@dataclass(frozen=True, eq=False)
class LinearMap:
    """Grey levels from a position of a latent: `weights` `[C + 1, 3]` for its channels and a constant."""

    weights: Tensor

    @staticmethod
    def fitted(latent: Tensor, pixels: Pixels) -> LinearMap:
        """From a picture `[H, W, 3]` and its latent float32 `[1, C, h, w]`."""
        picture = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
        means = F.interpolate(picture, latent.shape[2:], mode="area")
        found = torch.linalg.lstsq(_with_one(latent).flatten(0, 1), means[0].flatten(1).T, driver="gelsd")
        return LinearMap(found.solution)

    def pixels(self, latent: Tensor, box: Box, factor: int) -> Pixels:
        """The part of a latent's picture in `box`; `factor` pixels of it for each position, in height and width."""
        cells = [slice(max(0, part.start // factor - 1), -(-part.stop // factor) + 1) for part in box]
        levels = (_with_one(latent[..., cells[0], cells[1]]) @ self.weights).permute(2, 0, 1)[None]
        large = F.interpolate(levels, scale_factor=factor, mode="bilinear")[0].permute(1, 2, 0)
        rows, columns = (
            slice(part.start - first.start * factor, part.stop - first.start * factor)
            for part, first in zip(box, cells, strict=True)
        )
        return np.ascontiguousarray(large[rows, columns].clamp(0, 255).round().to(torch.uint8).numpy())


def _with_one(latent: Tensor) -> Tensor:
    """Channels last, `[h, w, C + 1]`, and a one."""
    return F.pad(latent[0].permute(1, 2, 0), (0, 1), value=1.0)


@dataclass(frozen=True, eq=False)
class Previews:
    """Shows every step of an edit of the picture `current` `[H, W, 3]` as a frame of its job.

    box: the rectangle of the edit. version: the number of the version that is being made of `calls` (None: densely).
    """

    job: Frames
    process: Process
    colours: LinearMap
    change: Change
    current: Pixels
    box: Box
    version: int
    calls: Calls | None = None

    def __call__(self, i: int, x: Tensor, output: Tensor) -> None:
        """Show step i of the sampler: what the denoiser predicts for `x`."""
        start, sampler = self.change.start, self.process.sampler
        at = i - start + 1, len(sampler) - start
        self.job.show("preview", self.version, self.box, partial(self._pixels, i, x, output), at, self.calls)

    def _pixels(self, i: int, x: Tensor, output: Tensor) -> Pixels:
        coming = self.process.sampler.clean(output, x, i)
        pixels = self.colours.pixels(coming, self.box, self.process.model.factor)
        return np.where(self.change.mask[self.box][..., None], pixels, self.current[self.box])
