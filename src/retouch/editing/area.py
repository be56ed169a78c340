"""Parts of a picture with words of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from retouch.editing.images import ImageLike
from retouch.errors import OptionError


@dataclass(frozen=True, eq=False)
class Area:
    """A part of the picture with words of its own.

    mask: as that of an edit, black outside the area. negative: what it should not show; None: as for the rest.
    """

    mask: ImageLike
    prompt: str
    negative: str | None = None

    @staticmethod
    def of(given: Area | tuple[Any, ...]) -> Area:
        """An area as it is, or from (mask, prompt) or (mask, prompt, negative). OptionError for anything else."""
        if isinstance(given, Area):
            return given
        words = given[1:] if isinstance(given, tuple) else ()
        if not (words and all(isinstance(word, str) for word in words) and len(words) <= 2):
            raise OptionError("an area is an Area, or a tuple (mask, prompt) or (mask, prompt, negative)")
        return Area(*given)

    @property
    def texts(self) -> dict[str, str | None]:
        """Prompt and negative prompt, as facts of versions have them."""
        return {"prompt": self.prompt, "negative": self.negative}


AreasLike = Sequence[Area | tuple[Any, ...]]
