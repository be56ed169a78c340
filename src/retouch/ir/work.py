"""What a kernel has to do: arithmetic and bytes, declared by each operation for the rows it computes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch


@dataclass(frozen=True)
class Work:
    """One kernel launch: `count` products of `[rows, depth]` and `[depth, columns]`, and the bytes it moves.

    Every distinct row is read or written once. `steps` are the instructions of a pointwise expression; `weights` those
    of the bytes that weights are; `padding` so many rows more are multiplied, of which nothing comes.
    """

    kernel: str
    dtype: torch.dtype
    nbytes: int
    rows: int = 0
    columns: int = 0
    depth: int = 0
    count: int = 1
    steps: int = 0
    weights: int = 0
    padding: int = 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return self.count * self.rows * self.columns * self.depth

    def times(self, runs: int) -> Work:
        """The launch that does it for so many runs at once, which read weights once."""
        nbytes = runs * (self.nbytes - self.weights) + self.weights
        if self.kernel in ("attention", "copy_many"):
            return replace(self, nbytes=nbytes, count=runs * self.count)
        return replace(self, nbytes=nbytes, rows=runs * self.rows, padding=runs * self.padding)


class Rows:
    """`named` entries of a list of rows or of an index table, which name the positions of `mask` `[B, H, W]`."""

    def __init__(self, mask: npt.NDArray[np.bool_], named: int | None = None, direct: bool = False) -> None:
        """`direct`: all rows in order, so that no index table is read."""
        self.mask, self._named, self.direct = mask, named, direct

    def __len__(self) -> int:
        return self.distinct if self._named is None else self._named

    @cached_property
    def distinct(self) -> int:
        """How many different rows are named."""
        return int(np.count_nonzero(self.mask))

    @property
    def index_bytes(self) -> int:
        """Bytes of the int32 table."""
        return 0 if self.direct else 4 * len(self)
