"""What stands for a tensor that only some rules can read; others have it computed densely."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from retouch.ir.layout import Ref
from retouch.ir.value import Value


@dataclass(frozen=True)
class Scores:
    """Attention written by hand, not yet complete: scale * q k^T, softmaxed over the keys or not, maybe transposed."""

    what: ClassVar[str] = "attention scores"

    q: Ref
    k: Ref | Value
    scale: float
    softmaxed: bool = False
    transposed: bool = False


@dataclass(frozen=True)
class Condition:
    """What a comparison became: rows that hold 1 where it is true and 0 elsewhere, in a type of rows."""

    what: ClassVar[str] = "comparisons"

    ref: Ref


@dataclass(frozen=True)
class Joint:
    """Tokens of maps and texts, as rows or still dense, one after the other in dimension `dim` of one tensor."""

    what: ClassVar[str] = "joined tokens"
    parts: tuple[Any, ...]
    dim: int

    def sizes(self) -> list[int]:
        """Length of each part along `dim`."""
        return [p.shape[self.dim] for p in self.parts]


@dataclass(frozen=True)
class Complex:
    """Complex numbers: real and imaginary parts are the last dimension of `ref`."""

    what: ClassVar[str] = "complex numbers"
    ref: Ref

    @property
    def shape(self) -> tuple[int, ...]:
        return self.ref.shape[:-1]


@dataclass(frozen=True)
class Strand:
    """`sign` times number `index` of each of the pairs that are the last dimension of `ref`."""

    what: ClassVar[str] = "single numbers of pairs"
    ref: Ref
    index: int
    sign: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.ref.shape[:-1]


@dataclass(frozen=True)
class Frames:
    """A map (B, C, 1, H, W) as the only frame of a clip that is not zeros: so many of these are before and after it."""

    what: ClassVar[str] = "frames of a clip"
    ref: Ref
    before: int = 0
    after: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        batch, channels, _, *size = self.ref.shape
        return (batch, channels, self.before + 1 + self.after, *size)


PENDING = Scores, Joint, Condition, Complex, Strand, Frames
"""All of them."""
