"""One edit with several seeds, computed together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image

from retouch.editing.calls import Calls
from retouch.editing.choice import Choice, VariantsError
from retouch.editing.diffusion.contents import Redrawn
from retouch.editing.diffusion.redraw import Redraw
from retouch.editing.history import History
from retouch.editing.meeting import side_by_side
from retouch.editing.version import Edited, Version
from retouch.plan.region import Region
from retouch.runtime.store import free_memory, free_on


@dataclass(frozen=True, eq=False)
class Variant:
    """What an edit makes with one seed: what it computed, what its version will say, and what was asked."""

    seed: int
    found: Redrawn = field(repr=False)
    calls: Calls = field(repr=False)
    region: Region
    facts: Mapping[str, Any]
    drawn: Mapping[str, bytes] | None = field(repr=False)

    @property
    def image(self) -> Image.Image:
        """The picture."""
        return Image.fromarray(self.found.pixels)

    @property
    def edited(self) -> Edited:
        """The picture as the result of an edit; seconds are those of all variants."""
        return Edited(self.image, self.region, dict(self.facts["seconds"]), self.found.check)


class Variants(Choice[Variant, Edited]):
    """Variants of one edit of a session. base: the version that they were made from."""

    def __init__(self, session: Any, base: Version, made: Sequence[Variant]) -> None:
        super().__init__(session, made)
        self.base = base

    def check(self, history: History[Version]) -> None:
        """VariantsError unless the current version is the one that they were made from, or one that came of them."""
        base = history.find(self.base.number)
        current = history.current in (self.base.number, self.chosen)
        if base is None or base.revision != self.base.revision or not current:
            raise VariantsError(
                "the session no longer shows the version that these variants were made from; undo to that one, "
                "or make new ones"
            )


def seeds_of(count: int, seeds: Sequence[int] | None, own: int) -> list[int]:
    """The seeds of `count` variants of a session whose seed is `own`; VariantsError where they do not fit."""
    if count < 1:
        raise VariantsError(f"{count} variants are none; ask for 1 or more")
    found = [own + k for k in range(count)] if seeds is None else list(seeds)
    if len(found) != count or len(set(found)) != count:
        raise VariantsError(f"{count} variants need {count} different seeds, not {found}")
    if min(found) < 0:
        raise VariantsError(f"seeds are not negative: {min(found)}")
    return found


def check_room(count: int, once: int, each: int, device: torch.device) -> None:
    """VariantsError when `count` variants take more bytes than are free where they are computed: `once`, and `each`."""
    free = free_memory() if device.type == "cpu" else free_on(device)
    if once + count * each > free:
        fit = max(0, free - once) // max(1, each)
        raise VariantsError(
            f"{count} variants need about {(once + count * each) / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are "
            f"free: {fit} of them fit" + ("" if fit else ", so take a smaller region, or `edit`")
        )


def seeded(redraw: Redraw, seed: int, own: int) -> Redraw:
    """A change with the noise of a seed; with the session's `own` that is the original's."""
    process = replace(redraw.process, sampler=redraw.process.sampler.seeded(seed))
    return replace(redraw, process=process, fresh=seed != own)


def varied(redraws: Sequence[Redraw], seeds: Sequence[int], own: int) -> list[Redrawn]:
    """What comes of changes that are the same but for the seed; with the session's `own`, noise is the original's."""
    return side_by_side([seeded(*each, own).result for each in zip(redraws, seeds, strict=True)])
