"""What an edit of a diffusion session computes: the encoder, every denoising step from the first, the decoder.

An edit noises the edited image as Meng et al., "SDEdit" (arXiv 2108.01073), and denoises it. At every step
the positions of its region follow their own trajectory and all others are those of the session's. Where the mask is
grey, positions join later, after Levin and Fried, "Differential Diffusion" (arXiv 2306.00950): each is denoised as in
an edit of the strength that the mask gives it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retouch.editing.archive import Progress
from retouch.editing.blend import blend
from retouch.editing.calls import Clock, no_more_calls, untold
from retouch.editing.diffusion.change import Change
from retouch.editing.diffusion.contents import Behind, Redrawn, behind, masked
from retouch.editing.diffusion.denoiser import snapshot_name
from retouch.editing.diffusion.estimate import Calibration, StepCheck, checked_step
from retouch.editing.diffusion.guides import Guides
from retouch.editing.diffusion.lockstep import Shared, Stages, alone
from retouch.editing.diffusion.model import Conditioning
from retouch.editing.diffusion.process import Evaluations, Growth, Process
from retouch.editing.diffusion.recorder import HIDDEN
from retouch.editing.diffusion.sampler import Trajectory
from retouch.editing.images import Pixels, difference, from_tensor
from retouch.plan.region import Mask, Region

AfterStep = Callable[[int, Tensor, Tensor], None]
"""Told the step of the sampler, the latent `[1, C, h, w]` before it and what the denoiser predicts there."""

WIDER = 16
"""Pixels by which a region grows when its error may be too large."""

GROWTHS: tuple[Growth, ...] = (
    lambda region: region,
    lambda region: region.dilated(WIDER),
    lambda region: Region(np.ones_like(region.mask)),
)
"""What is computed for a region, until the estimate of the error is low enough: it, more, everything."""


@dataclass(frozen=True)
class Joined:
    """The positions of a latent that an edit has reached, bool `[1, 1, h, w]`, and the region that is computed."""

    inside: Tensor
    region: Region


@dataclass
class Redraw:
    """One change being computed, every network for what `grow` makes of its region; what may change stays the same.

    original, current: tensors of the session's first version, and of the one that is edited. after_step: told of every
    step. fresh: the noise is that of the sampler's seed, not what the original holds.
    """

    process: Process
    original: Mapping[str, Tensor]
    current: Mapping[str, Tensor]
    change: Change
    run: Evaluations
    calibration: Callable[[], Calibration]
    clock: Clock
    progress: Progress
    grow: Growth = GROWTHS[0]
    after_step: AfterStep | None = None
    fresh: bool = False

    def __post_init__(self) -> None:
        asked = Region.from_mask(self.change.mask)
        self.inside = self.process.latent_mask(asked)
        self.region = self.grow(asked)
        self.count = len(self.process.sampler) - self.change.start
        self.pixels: Pixels = self.current["image"].numpy()
        self.behind = behind(self.current, self.process.size)
        self.drawn = self._drawn()
        if self.drawn.any():  # what is made of a control image reaches further, under `exact` as far as norms do
            self.behind[self.drawn | self.process.policy.exact] = len(self.process.sampler) + 1
        self.masked = Region.from_mask(masked(self.current, self.process))

    def _joined(self, i: int) -> Joined:
        """What has joined when step i begins."""
        asked = Region.from_mask(self.change.joined(i))
        return Joined(self.process.latent_mask(asked), self.process.around(self.grow(asked)) | self.masked)

    def _computed(self, region: Region, i: int) -> Region:
        """What step i computes for a region, or the decoder as one step more: its recording must not stay behind."""
        late = self.behind > i
        return region | Region.from_mask(late) if late.any() else region

    def result(self) -> Redrawn:
        """Compute it."""
        found = alone(self.stages())
        no_more_calls()
        with self.clock.of("composite"):
            change, border = self.change, self.process.border
            pixels = blend(self.pixels, found.pixels, change.mask, border, change.blend)
        self.progress(self.count + 1, self.count + 1, "done")
        return replace(found, pixels=pixels)

    def stages(self) -> Stages[Redrawn]:
        """Compute it, but for setting the decoded pixels into the picture."""
        self.progress(0, self.count + 1, "encoding")
        with self.clock.of("encode"):
            latent, visible, seen = self._encoded()
            self.conditioning = self._steered()
        latents, check = yield from self._denoised(latent, visible)
        self.progress(self.count, self.count + 1, "decoding")
        with self.clock.of("decode"):
            decoded = self.decoded(latents)
        everywhere = torch.ones_like(decoded[:, :1], dtype=torch.bool)
        decoded = yield Shared((len(self.process.sampler), 1), decoded, everywhere, mean=True)
        return Redrawn(
            latents, from_tensor(decoded), seen, self._still_behind(), check, self.change.conditioning.guides
        )

    def _still_behind(self) -> Behind:
        """Steps before the first that are behind stay so."""
        late = np.minimum(self.behind, np.int16(self.change.start))
        return np.where(late > self.process.first, late, np.int16(0))

    def decoded(self, latents: Tensor) -> Tensor:
        """Pixels of the last latent, as a tensor."""
        region = self.process.whole(self._computed(self.region, len(self.process.sampler)))
        return self.process.to_pixels(latents[-1:], lambda name, net, *args: self.run.update(name, net, region, *args))

    def _encoded(self) -> tuple[Tensor, Tensor | None, Pixels]:
        """Latent of the edited image; what the denoiser reads of it, with what is repainted hidden from models that
        inpaint; the encoder's image.
        """
        change, latent = self.change, self.current["latents"][-1:]
        seen: Pixels = self.current["seen"].numpy()
        if not np.array_equal(change.pixels, self.pixels):
            latent, seen = self._encode(change.pixels, seen)
        if not self.process.model.inpaints:
            return latent, latent if self.process.model.refers else None, seen
        hidden = np.where(change.mask[..., None], np.uint8(HIDDEN), change.pixels)
        return (latent, *self._encode(hidden, seen))

    def _encode(self, pixels: Pixels, seen: Pixels) -> tuple[Tensor, Pixels]:
        """The latent of an image, from an encoder that has `seen` another one, and what it has seen now."""
        return self.process.encoded(pixels, seen, self.run, self.grow), pixels

    def _drawn(self) -> Mask:
        """Where control images differ from those of before, `[H, W]`."""
        pairs = zip(Guides.of(self.current, {}).controls, self.change.conditioning.guides.controls, strict=True)
        found: Mask = np.zeros(self.process.size, np.bool_)
        for old, new in pairs:
            found |= difference(old.pixels, new.pixels, 0)
        return found

    def _steered(self) -> Conditioning:
        """The conditioning, with what is made of control images computed where they differ."""
        redrawn = self.grow(Region.from_mask(self.drawn))
        run, conditioning = self.run, self.change.conditioning
        return self.process.steered(conditioning, lambda name, net, x: run.update(name, net, redrawn, x))

    def _denoised(self, latent: Tensor, hidden: Tensor | None) -> Stages[tuple[Tensor, StepCheck | None]]:
        """The latents of all positions, those of the trajectory inside the region replaced; a step to check."""
        process, sampler, start = self.process, self.process.sampler, self.change.start
        old, areas = self.current["latents"], self.change.areas
        latents, x, check = old.clone(), old[start - process.first][None], None
        joined, parts = Joined(torch.zeros_like(self.inside), self.masked), list[tuple[Tensor, Trajectory]]()
        for i in range(start, len(sampler)):
            self.progress(i - start, self.count + 1, f"step {i - start + 1} of {self.count}")
            if i in self.change.steps:
                before, joined = joined, self._joined(i)
                parts.append((joined.inside & ~before.inside, sampler.trajectory(i)))
                x = torch.where(parts[-1][0], self._noised(latent, i), x)
            x = yield Shared((i, 0), x, joined.inside, mean=False)
            latents[i - process.first] = x[0]
            predict = self._prediction(i, x, joined.inside, hidden)
            region = self._computed(joined.region, i)
            update = partial(self.run.update, snapshot_name(i), process.nets.denoiser, region, areas=areas)
            told = untold if self.after_step is None else partial(self._told, self.after_step, i, x)
            with self.clock.of("denoise"):
                output = predict(partial(update, told=told))
            if i == start + checked_step(self.count):
                check = self._check(i, output, partial(predict, partial(process.dense, areas)))
            output = yield Shared((i, 1), output, joined.inside, mean=True)
            with self.clock.of("schedule"):
                x, before_step = old[i + 1 - process.first][None], x
                for inside, trajectory in parts:
                    x = torch.where(inside, trajectory.advance(output, before_step), x)
        x = yield Shared((len(sampler), 0), x, joined.inside, mean=False)
        latents[-1] = x[0]
        return latents, check

    def _told(self, after_step: AfterStep, i: int, x: Tensor, result: Any) -> None:
        """Tell of a step what the network returned."""
        after_step(i, x, self.process.model.output(result, self.conditioning))

    def _prediction(
        self, i: int, x: Tensor, inside: Tensor, hidden: Tensor | None
    ) -> Callable[[Callable[..., Any]], Tensor]:
        """Step i of the denoiser for the latent `x`, given what runs the network.

        A model that inpaints reads beside it which positions are repainted, and the latent of the others; one that
        refers the latent of the picture.
        """
        repainted: tuple[Tensor | None, Tensor | None] = (None, None)
        if hidden is not None:
            repainted = inside.to(hidden.dtype), torch.where(inside, hidden, self.current["latents"][-1:])
        return lambda call: self.process.denoiser.step(call, i, x, self.conditioning, *repainted)

    def _noised(self, latent: Tensor, i: int) -> Tensor:
        """The start of a trajectory from step i, with the noise that the original holds, or a fresh one."""
        process = self.process
        original = self.original["latents"]
        if self.fresh:
            noise = process.sampler.noise(tuple(original[-1:].shape))
        else:
            noise = process.sampler.noise_of(original[i - process.first][None], original[-1:], i)
        if self.change.repaint and i == 0:
            return process.sampler.initial(noise)
        return process.sampler.noised(latent, noise, i)

    def _check(self, i: int, output: Tensor, dense: Callable[[], Tensor]) -> StepCheck:
        process = self.process
        levels = partial(_levels, self.original, process.sampler.leverage(i))
        decoded = process.nets.decoder is not None and not (process.policy.exact or self.region.mask.all())
        return StepCheck(output, dense, process.core(self.change.joined(i)), levels, decoded, self.calibration)


def _levels(original: Mapping[str, Tensor], leverage: float) -> float:
    return grey_levels(original) * leverage


def grey_levels(original: Mapping[str, Tensor]) -> float:
    """Grey levels of a difference of one in the clean latent: of the original, by the deviations of both."""
    return float(original["image"].numpy().std(ddof=1) / original["latents"][-1].std().clamp(min=1e-3))
