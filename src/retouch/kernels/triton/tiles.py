"""Sizes of tiles by architecture. They follow from the weights' shape and the dtype, never from the rows."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from triton.runtime import driver

TARGET_TILES = 128
"""A product of one tile of rows is split over K until it has about this many tiles."""
SHORTEST = 512
"""Least length of K that a split sums."""
FEWEST = 256
"""Least number of keys in a stretch of attention."""


class Tile(NamedTuple):
    """A tile of `rows x columns` outputs that sums `depth` inputs at a time.

    stages: as Triton counts them. Rows come through an index that is read first, so half of them hold operands.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


class AttentionTile(NamedTuple):
    """Queries and keys that a program of attention takes at a time.

    depth: most channels of a head that it multiplies at a time; columns: most that it sums.
    """

    queries: int
    keys: int
    depth: int
    columns: int
    warps: int
    stages: int


_HALF = Tile(64, 64, 64, 4, 3)
_SINGLE = Tile(64, 64, 16, 4, 3)
TILES: dict[str, dict[int, Tile]] = {
    "sm_80": {2: Tile(64, 128, 32, 4, 7), 4: _SINGLE},
    "sm_86": {2: Tile(64, 64, 32, 4, 7), 4: _SINGLE},
    "sm_90": {2: Tile(64, 128, 64, 4, 5), 4: _SINGLE},
    "gfx942": {2: _HALF, 4: _SINGLE},
    "other": {2: Tile(64, 64, 32, 4, 2), 4: Tile(64, 64, 16, 4, 2)},
}
_ATTENTION = {2: AttentionTile(32, 32, 64, 64, 4, 2), 4: AttentionTile(16, 16, 64, 64, 4, 2)}
ATTENTION_TILES: dict[str, dict[int, AttentionTile]] = {
    "sm_80": _ATTENTION,
    "sm_86": _ATTENTION,
    "sm_90": {2: AttentionTile(64, 64, 64, 128, 4, 3), 4: AttentionTile(32, 32, 64, 64, 4, 2)},
    "gfx942": _ATTENTION,
    "other": _ATTENTION,
}
"""Both tables go by architecture, then by bytes of a number. Chosen from compiled kernels (registers, shared memory),
not timed: `retouch bench tiles` times them."""


def tile(name: str, dtype: torch.dtype, columns: int) -> Tile:
    """The tile for matrix products with `columns` outputs."""
    table = TILES.get(name, TILES["other"])
    found = table[dtype.itemsize]
    narrow = max(16, triton.next_power_of_2(columns))
    return Tile(found.rows, min(found.columns, narrow), found.depth, found.warps, found.stages)


def split(columns: int, taps: int, channels: int, size: Tile) -> int:
    """Into how many parts the sum over taps and channels is split: a power of two, from the weights' shape alone."""
    return _parts(triton.cdiv(columns, size.columns), taps * channels, SHORTEST)


def columns(channels: int, most: int = 128) -> int:
    """Columns of a program that is no matrix product."""
    return min(most, int(triton.next_power_of_2(channels)))


def attention_tile(name: str, dtype: torch.dtype, depth: int, columns: int) -> AttentionTile:
    """The tile for attention whose heads have `depth` channels of queries and keys, and `columns` of values."""
    found = ATTENTION_TILES.get(name, ATTENTION_TILES["other"])[dtype.itemsize]
    narrow, slim = (max(16, triton.next_power_of_2(size)) for size in (depth, columns))
    return found._replace(depth=min(found.depth, narrow), columns=min(found.columns, slim))


def stretches(programs: int, keys: int) -> int:
    """Into how many stretches keys are split, where one tile of queries takes `programs`: a power of two."""
    return _parts(programs, keys, FEWEST)


def _parts(programs: int, length: int, least: int) -> int:
    """A power of two: about `TARGET_TILES` programs in all, none with less than `least` of what is summed."""
    parts = 1
    while programs * parts * 2 <= TARGET_TILES and length // (parts * 2) >= least:
        parts *= 2
    return parts


def precision() -> str:
    """How float32 is multiplied: IEEE, unless PyTorch is told that TF32 is enough."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def architecture() -> str:
    """The name in `TILES` of the architecture in use: the newest that it can run, "other" where there is none."""
    if triton.knobs.runtime.interpret:
        return "other"
    target = driver.active.get_current_target()
    if target.backend != "cuda":
        return str(target.arch)
    known = sorted(int(name[3:]) for name in TILES if name.startswith("sm_"))
    fitting = [x for x in known if x <= target.arch]
    return f"sm_{fitting[-1]}" if fitting else "other"
