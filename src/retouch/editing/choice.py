"""What one edit makes with several seeds, until one is chosen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

from PIL import Image

from retouch.errors import RetouchError


class VariantsError(RetouchError, ValueError):
    """A number of variants that there cannot be, or a choice that no longer fits the session."""


class Variant(Protocol):
    """What an edit makes with one seed."""

    @property
    def seed(self) -> int: ...  # noqa: D102
    @property
    def image(self) -> Image.Image: ...  # noqa: D102


V = TypeVar("V", bound=Variant)
R = TypeVar("R")


class Choice(Generic[V, R]):
    """Variants of one edit, to look at and choose from; they hold what they computed until they are dropped.

    session: whose they are, which takes one by `choose`. chosen: the number of the version that one of them has become
    last, None before.
    """

    def __init__(self, session: Any, made: Sequence[V]) -> None:
        self.session, self._made = session, tuple(made)
        self.chosen: int | None = None

    def __len__(self) -> int:
        return len(self._made)

    def __iter__(self) -> Iterator[V]:
        return iter(self._made)

    def __getitem__(self, number: int) -> V:
        """One of them; VariantsError when there is none of that number."""
        if not 0 <= number < len(self):
            raise VariantsError(f"there is no variant {number}; they are 0 to {len(self) - 1}")
        return self._made[number]

    @property
    def images(self) -> list[Image.Image]:
        """Their pictures."""
        return [variant.image for variant in self]

    @property
    def seeds(self) -> list[int]:
        """Their seeds; the first is the session's own."""
        return [variant.seed for variant in self]

    def choose(self, number: int) -> R:
        """Make one the session's version; see `choose` of that."""
        made: R = self.session.choose(self, number)
        return made
