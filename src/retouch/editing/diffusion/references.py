"""Other pictures that a transformer reads in the sequence of the one it makes, asked for as image prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from retouch.editing.diffusion.adapters import Adapters
from retouch.editing.diffusion.guides import AS_BEFORE, Guides, Images, Picture, Scales, Steering, as_pictures
from retouch.errors import OptionError


class References(Adapters):
    """Up to `most` pictures; the first `shown` of them are no references and may be of any size in every edit."""

    def __init__(self, pipe: Any, most: int, shown: int = 0) -> None:
        super().__init__(pipe)
        self.prompts, self.shown = most, shown

    def prompt_inputs(self, guides: Guides, guided: bool) -> dict[str, Any]:
        """Nothing: references are no arguments of attention."""
        return {}

    def pictures(self, given: Images | None, old: tuple[Picture, ...]) -> tuple[Picture, ...]:
        """As given, or as before. OptionError for too many."""
        found = as_pictures(given)
        found = old if found is None else found
        if len(found) > self.prompts:
            raise OptionError(f"{len(found)} pictures are given as image prompts; this pipeline reads {self.prompts}")
        return found

    def guides(self, size: tuple[int, int], asked: Steering = AS_BEFORE, old: Guides | None = None) -> Guides:
        """OptionError also for references of other numbers or sizes than the session was opened with."""
        found = super().guides(size, asked, old)
        sizes = [[each.size for each in guides.prompts[self.shown :]] for guides in (found, old or found)]
        if sizes[0] != sizes[1]:
            raise OptionError(
                "image prompts that are references keep their number and sizes for a session; open another"
            )
        return found

    def blank(
        self, size: tuple[int, int], scales: Scales | None = None, prompts: Sequence[Sequence[int]] | None = None
    ) -> Guides:
        """As many as there are `prompts`."""
        found = super().blank(size, scales, prompts)
        return replace(found, prompts=found.prompts[: len(prompts or ())])
