"""What an edit of a diffusion session was asked, in a few kilobytes: pictures of strokes, joining and areas.

Texts, class, seed and how far the region was grown are facts of its version.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from retouch.editing.area import Area
from retouch.editing.diffusion.asked import Current
from retouch.editing.diffusion.change import NEVER, Change
from retouch.editing.diffusion.guides import UNGUIDED
from retouch.editing.diffusion.model import Conditioning
from retouch.editing.images import Pixels, difference
from retouch.editing.manifest import ArchiveError
from retouch.editing.replay import Cropped, Pictures, decoded, patched
from retouch.plan.region import Mask

STROKES, JOINS, AREAS = "strokes.png", "joins.png", "areas.png"
STAYS = 0xFFFF
"""Stands in a picture for a pixel that never joins."""


def pictures_of(change: Change, before: Pixels) -> Mapping[str, bytes] | None:
    """Files of a change to a picture: its strokes, the step at which each pixel joins, and areas below each other.

    None for one under control images, image prompts or scales of adapters, which no such file holds.
    """
    if change.conditioning.guides != UNGUIDED:
        return None
    found = {
        STROKES: Cropped.strokes(change.pixels, difference(change.pixels, before, 0)),
        JOINS: Cropped.of(np.where(change.joins == NEVER, STAYS, change.joins).astype(np.uint16), STAYS),
    }
    if change.words and change.areas:
        masks = np.concatenate([region.mask[0] for region in change.areas.regions])
        found[AREAS] = Cropped.of(masks.astype(np.uint8) * np.uint8(255))
    return Pictures(found)


def strokes_of(drawn: Mapping[str, bytes], before: Pixels) -> tuple[Mask, Pixels]:
    """Where a picture was drawn on, bool `[H, W]`, and what it was then. ArchiveError when there is no file of that."""
    if STROKES not in drawn:
        raise ArchiveError(f"an edit cannot be made again: {STROKES} is missing; it cannot be trusted")
    strokes = decoded(drawn[STROKES], (before.shape[0], before.shape[1]))
    pixels = patched(before, strokes)
    return strokes[..., 3] > 0, pixels


def change_of(
    drawn: Mapping[str, bytes], facts: Mapping[str, Any], current: Current, conditioning: Conditioning
) -> Change:
    """The change that these are files and facts of, to the version that `current` is. ArchiveError for others."""
    words, size = tuple(facts.get("areas", ())), current.process.size
    pixels = strokes_of(drawn, current.pixels)[1]
    missing = [name for name in (JOINS, *([AREAS] if words else ())) if name not in drawn]
    if missing:
        raise ArchiveError(f"an edit cannot be made again: {', '.join(missing)} is missing; it cannot be trusted")
    joins = decoded(drawn[JOINS], size).astype(np.int32)
    masks = np.split(decoded(drawn[AREAS], (size[0] * len(words), size[1])), len(words)) if words else ()
    areas = [Area(mask, text["prompt"], text["negative"]) for mask, text in zip(masks, words, strict=True)]
    return Change(
        pixels,
        np.where(joins == STAYS, np.int32(NEVER), joins),
        conditioning,
        facts["blend"],
        facts["edit"] == "inpaint",
        current.areas(conditioning, areas),
        words,
    )
