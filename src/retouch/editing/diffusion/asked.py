"""What is asked of an edit of a diffusion session, and what that means for the version that it is asked of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from retouch.editing.area import Area, AreasLike
from retouch.editing.blend import checked
from retouch.editing.calls import run_whole
from retouch.editing.diffusion.areas import MASK, WORDS
from retouch.editing.diffusion.change import NEVER, Change, Joins, joins
from retouch.editing.diffusion.guides import AS_BEFORE, Guides, Images, Scales, Steering
from retouch.editing.diffusion.model import Conditioning, PipelineError
from retouch.editing.diffusion.process import Process
from retouch.editing.diffusion.schedulers import SchedulerError
from retouch.editing.images import (
    ImageLike,
    Pixels,
    Strengths,
    as_pixels,
    as_strengths,
    difference,
    pasted,
    threshold_of,
)
from retouch.ir.geometry import Grid
from retouch.plan.areas import Areas
from retouch.plan.region import Mask, Region

MASK_STEPS = 4
"""Steps at which an automatic difference mask compares the predictions for two prompts."""


class Options(TypedDict, total=False):
    """What every edit takes, as `DiffusionSession.edit` explains it; None: as the session has it."""

    prompt: str | None
    negative: str | None
    class_label: int | None
    strength: float | None
    blend: str | None
    control: Images | None
    image_prompt: Images | None
    scales: Scales | None


@dataclass(frozen=True)
class Asked:
    """What is asked of an edit, as `DiffusionSession.edit` takes it; None: as the session has it."""

    image: ImageLike | None = None
    mask: ImageLike | None = None
    prompt: str | None = None
    negative: str | None = None
    class_label: int | None = None
    strength: float | None = None
    threshold: int | None = None
    areas: AreasLike = ()
    blend: str | None = None
    inpaint: bool = False
    steering: Steering = AS_BEFORE

    @staticmethod
    def of(options: Options, image: ImageLike | None, mask: ImageLike | None, **others: Any) -> Asked:
        """What is asked with options, an image and a mask; `others` are fields."""
        told: dict[str, Any] = {**options}
        steering = Steering(*(told.pop(name, None) for name in Steering._fields))
        return Asked(image, mask, steering=steering, **told, **others)

    def read(self, size: tuple[int, int]) -> Asked:
        """With pictures of guides, and areas whose masks are strengths `[H, W]`, which are files no longer. ImageError
        or OptionError.
        """
        areas = tuple(replace(area, mask=as_strengths(area.mask, size)) for area in map(Area.of, self.areas))
        return replace(self, areas=areas, steering=self.steering.read())

    def over(self, older: Asked) -> Asked:
        """What is given here, or else by an older one; areas of both, these over the older."""
        fields = ("prompt", "negative", "class_label", "strength", "blend")
        left = {name: getattr(older, name) for name in fields if getattr(self, name) is None}
        steering = self.steering.over(older.steering)
        return replace(self, **left, areas=(*older.areas, *self.areas), steering=steering)


@dataclass(frozen=True)
class Current:
    """The version that edits are asked of.

    pixels, latents: its image and the latents of all positions (None: it is not recorded yet); conditioning: its own;
    condition: makes that of a prompt, a negative prompt, a class and guides. strength, blend: those of edits that do
    not say. had_areas: whether an edit before gave words to areas.
    """

    process: Process
    pixels: Pixels
    latents: Tensor | None
    conditioning: Conditioning
    condition: Callable[[str | None, str | None, int | None, Guides], Conditioning]
    strength: float
    blend: str
    had_areas: bool

    def change(self, asked: Asked) -> Change:
        """What an edit comes to. ImageError, PipelineError, SchedulerError or OptionError for bad input."""
        asked = asked.read(self.process.size)
        change = self.known(asked)
        if change.steps or change.conditioning.asked == self.conditioning.asked:
            return change
        found = self._where_words_differ(change.conditioning)
        return replace(change, joins=self.joins(found.astype(float), asked.strength))

    def known(self, asked: Asked) -> Change:
        """`change` as far as no network is needed for it; none of it joins where that is for the words to say."""
        old, pixels = self.conditioning, self.pixels
        asked_guides = self._guides(asked)
        found = self.joins(self.strengths(asked), asked.strength)
        conditioning = self.condition(
            old.prompt if asked.prompt is None else asked.prompt,
            old.negative if asked.negative is None else asked.negative,
            old.class_label if asked.class_label is None else asked.class_label,
            asked_guides.inside(found < NEVER, old.guides),
        )
        if asked.image is not None:
            pixels = pasted(as_pixels(asked.image), found < NEVER, pixels)
        areas = tuple(map(Area.of, asked.areas))
        words = tuple(area.texts for area in areas)
        blend = checked(self.blend if asked.blend is None else asked.blend)
        return Change(pixels, found, conditioning, blend, asked.inpaint, self.areas(conditioning, areas), words)

    def _guides(self, asked: Asked) -> Guides:
        """What steers the picture after an edit that is everywhere."""
        adapters, old = self.process.model.adapters, self.conditioning.guides
        return adapters.guides(self.process.size, asked.steering, old)

    def strengths(self, asked: Asked) -> Strengths:
        """Shares of the strength by pixel: the mask's, or those of areas and white where the picture was drawn on."""
        size = self.process.size
        if asked.mask is not None:
            return as_strengths(asked.mask, size)
        drawn = self.pixels if asked.image is None else as_pixels(asked.image)
        threshold = threshold_of(self.process.policy) if asked.threshold is None else asked.threshold
        differs = difference(self.pixels, drawn, threshold)
        for before, after in zip(self.conditioning.guides.controls, self._guides(asked).controls, strict=True):
            differs = differs | difference(before.pixels, after.pixels, threshold)
        found: Strengths = differs.astype(float)
        for area in map(Area.of, asked.areas):
            part = as_strengths(area.mask, size)
            found = np.where(part > 0, part, found)
        return found

    def joins(self, strengths: Strengths, strength: float | None = None) -> Joins:
        """When each pixel joins. SchedulerError when a mask is so dark that no step is left for any, PipelineError for
        steps that were not recorded.
        """
        most, sampler = self.strength if strength is None else strength, self.process.sampler
        if sampler.start(most) < self.process.first:
            raise PipelineError(
                f"a strength of {most:g} needs steps that were not recorded; this session was opened with "
                f"a strength of {self.strength:g}, open it again with a higher one"
            )
        found, brightest = joins(strengths, most, sampler.start), strengths.max()
        if brightest and not (found < NEVER).any():
            raise SchedulerError(
                f"the brightest value of the mask, {brightest:.2g} of white, leaves none of {sampler.steps} steps "
                f"at a strength of {most:g}; white is 1.0, 255 or True"
            )
        return found

    def areas(self, conditioning: Conditioning, areas: Sequence[Area]) -> Areas | None:
        """Areas as the network reads them."""
        size = self.process.size
        regions = [Region.from_mask(as_strengths(area.mask, size) > 0) for area in areas]
        old, label = conditioning.negative, conditioning.class_label
        found = [
            self.condition(area.prompt, old if area.negative is None else area.negative, label, conditioning.guides)
            for area in areas
        ]
        if not areas and self.process.policy.exact and self.had_areas:
            # An empty area, so that rows which read the texts of others are computed again.
            regions, found = [Region.from_mask(np.zeros(size, np.bool_))], [conditioning]
        if not found:
            return None
        names = [name for name in (WORDS, MASK) if name in dict(found[0].inputs)]
        texts = {name: tuple(dict(each.inputs)[name] for each in found) for name in names}
        return Areas(WORDS, tuple(regions), texts.pop(WORDS), texts)

    def _where_words_differ(self, conditioning: Conditioning) -> Mask:
        """Where the predictions for the version's texts and for others differ by more than half the most."""
        process, first, differences = self.process, self.process.first, []
        both = [process.steered(c, lambda _, *read: run_whole(*read)) for c in (self.conditioning, conditioning)]
        assert self.latents is not None
        for i in np.unique(np.linspace(first, len(process.sampler) - 1, MASK_STEPS + 2).astype(int)[1:-1]):
            x, step = self.latents[i - first][None], process.denoiser.step
            old, new = (step(process.dense, i, x, c) for c in both)
            differences.append((new - old).abs().mean(1)[0])
        mean = torch.stack(differences).mean(0)
        scaled = mean / mean.quantile(0.99).clamp(min=1e-12)
        cells: Mask = (scaled > 0.5).numpy()
        mask: Mask = Region.from_mask(cells).on(Grid(*process.size)).mask[0]
        return mask
