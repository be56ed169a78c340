"""Recording an image: every network call of its trajectory, whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from retouch.editing.archive import Progress
from retouch.editing.calls import Calls, Clock
from retouch.editing.diffusion.contents import Redrawn
from retouch.editing.diffusion.denoiser import snapshot_name
from retouch.editing.diffusion.model import Conditioning
from retouch.editing.diffusion.process import Process
from retouch.editing.images import Pixels, from_tensor

HIDDEN = 127
"""The grey of what is hidden from a model that inpaints."""


def noised(process: Process, latent: Tensor) -> Tensor:
    """A latent `[1, C, h, w]` at all positions from the first, with the seed's noise: `[n + 1, C, h, w]`."""
    noise, positions = process.sampler.noise(tuple(latent.shape)), range(process.first, len(process.sampler) + 1)
    return torch.cat([process.sampler.noised(latent, noise, i) for i in positions])


@dataclass
class Recorder:
    """Records a photograph or a generated image, once; `calls` keep the recordings."""

    process: Process
    conditioning: Conditioning
    calls: Calls
    clock: Clock
    progress: Progress
    done: int = 0

    def photograph(self, pixels: Pixels) -> Redrawn:
        """The networks on an image [H, W, 3] at every level of noise from the first."""
        process, sampler, first = self.process, self.process.sampler, self.process.first
        self._steer()
        latent = self._part("encode", "encoding", lambda: process.to_latent(pixels, self.calls.record))
        latents = noised(process, latent)
        for i in range(first, len(sampler)):
            self._step("recording step", i, latents[i - first][None], None, latent)
        self._part("decode", "recording the decoder", lambda: process.to_pixels(latent, self.calls.record))
        return Redrawn(latents, pixels, pixels, guides=self.conditioning.guides)

    def generated(self) -> Redrawn:
        """The trajectory from noise to an image, and the encoder on that; for a model that inpaints, all of it anew."""
        process, sampler = self.process, self.process.sampler
        self._steer()
        hidden: Pixels = np.full((*process.size, 3), HIDDEN, np.uint8)
        mask, visible = None, None
        if process.model.inpaints:
            visible = self._encoded(hidden)
            mask = torch.ones_like(visible[:, :1])
        x = sampler.initial(sampler.noise(process.model.latent_shape(process.size)))
        latents, trajectory = [x], sampler.trajectory(0)
        for i in range(len(sampler)):
            x = trajectory.advance(self._step("step", i, x, mask, visible), x)
            latents.append(x)
        decoded = self._part("decode", "decoding", lambda: process.to_pixels(x, self.calls.record))
        pixels = from_tensor(decoded)
        if visible is None:
            self._encoded(pixels)
        seen = pixels if visible is None else hidden
        return Redrawn(torch.cat(latents), pixels, seen, guides=self.conditioning.guides)

    def _encoded(self, pixels: Pixels) -> Tensor:
        return self._part("encode", "recording the encoder", lambda: self.process.to_latent(pixels, self.calls.record))

    def _steer(self) -> None:
        with self.clock.of("encode"):
            self.conditioning = self.process.steered(self.conditioning, self.calls.record)

    @property
    def steps(self) -> int:
        """Steps that are recorded; encoder and decoder come beside them."""
        return len(self.process.sampler) - self.process.first

    def _part(self, name: str, text: str, call: Callable[[], Tensor]) -> Tensor:
        self.progress(self.done, self.steps + 2, text)
        with self.clock.of(name):
            found = call()
        self.done += 1
        return found

    def _step(self, text: str, i: int, x: Tensor, mask: Tensor | None, visible: Tensor | None) -> Tensor:
        process = self.process
        record = partial(self.calls.record, snapshot_name(i), process.nets.denoiser)
        text = f"{text} {i - process.first + 1} of {self.steps}"
        step = partial(process.denoiser.step, record, i, x, self.conditioning, mask, visible)
        return self._part("denoise", text, step)
