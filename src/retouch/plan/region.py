"""What an edit changed.

Regions follow Li et al., "Efficient Spatially Sparse Inference for Conditional GANs and Diffusion Models"
(arXiv 2211.02048), section 3: difference over a threshold, dilation, reduction to every resolution.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property, lru_cache, reduce
from itertools import pairwise, product
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from retouch.errors import RetouchError
from retouch.ir.geometry import Grid
from retouch.plan.policy import Policy

Mask = npt.NDArray[np.bool_]


FEW = 8
"""Positions up to which slices of a map are joined faster than an axis of them is reduced."""


class RegionError(RetouchError, ValueError, TypeError):
    """What is given is no region, or it does not fit the network's grids."""


class Region:
    """The active positions of an edit as a boolean mask `[1 or B, H, W]` on the grid it was drawn on.

    It is a value: `mask` is a copy that cannot be written, and regions of equal content are equal.
    """

    def __init__(self, mask: Mask) -> None:
        self.mask = np.array(mask, np.bool_)
        self.mask.flags.writeable = False

    @cached_property
    def _key(self) -> tuple[tuple[int, ...], bytes]:
        return self.mask.shape, np.packbits(self.mask).tobytes()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Region) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @staticmethod
    def from_mask(mask: Tensor | Mask) -> Region:
        """From bool `[H, W]` (all samples alike) or `[B, H, W]`; True where the image was edited."""
        array = np.asarray(mask.detach().cpu() if isinstance(mask, Tensor) else mask)
        if array.dtype != np.bool_:
            raise RegionError(f"a mask is boolean, not {array.dtype}; compare with a threshold first")
        if array.ndim not in (2, 3) or 0 in array.shape:
            raise RegionError(f"a mask is [H, W] or [B, H, W], not {list(array.shape)}")
        return Region(array if array.ndim == 3 else array[None])

    @staticmethod
    def from_images(image: Tensor, edited: Tensor, eps: float = 0.01) -> Region:
        """Where two images `[..., C, H, W]` differ by more than `eps` in any channel (in their own units)."""
        if image.shape != edited.shape:
            raise RegionError(f"images of different shapes: {list(image.shape)} and {list(edited.shape)}")
        if image.dim() < 3:
            raise RegionError(f"an image is [C, H, W] or [B, C, H, W], not {list(image.shape)}")
        difference = (edited.cpu().double() - image.cpu().double()).abs().amax(-3)
        return Region.from_mask((~(difference <= eps)).reshape(-1, *difference.shape[-2:]))

    @staticmethod
    def from_rows(rows: Iterable[int], height: int, width: int) -> Region:
        """From flat positions `y * width + x` of one grid."""
        mask = np.zeros(height * width, dtype=np.bool_)
        index = np.fromiter(rows, dtype=np.int64)
        if len(index) and (index.min() < 0 or index.max() >= mask.size):
            raise RegionError(f"rows of a {height}x{width} grid are 0 to {mask.size - 1}")
        mask[index] = True
        return Region(mask.reshape(1, height, width))

    @property
    def grid(self) -> Grid:
        """The grid that the mask is on."""
        return Grid(*self.mask.shape[1:])

    @property
    def fraction(self) -> float:
        """Share of the positions that are active."""
        return float(self.mask.mean())

    def __repr__(self) -> str:
        samples = f", {len(self.mask)} samples" if len(self.mask) > 1 else ""
        return f"Region({self.grid}{samples}, {self.fraction:.2%} active)"

    def __or__(self, other: Region) -> Region:
        return Region(self.mask | other.mask)

    def dilated(self, radius: int) -> Region:
        """Grown by `radius` positions in every direction, diagonals included."""
        return Region(dilate(self.mask, radius))

    def on(self, grid: Grid) -> Region:
        """On another grid: a position is active when any that it covers, or that covers it, is."""
        return Region(_cover(_cover(self.mask, 1, grid.height), 2, grid.width))


def dilate(mask: Mask, radius: int) -> Mask:
    """`mask` `[B, H, W]` grown by a square of `radius` positions."""
    rows, columns = np.flatnonzero(mask.any((0, 2))), np.flatnonzero(mask.any((0, 1)))
    found = np.zeros_like(mask)
    if not len(rows):
        return found
    box = tuple(slice(max(hit[0] - radius, 0), hit[-1] + radius + 1) for hit in (rows, columns))
    near = mask[:, *box]
    for axis in (1, 2):
        grown = near.copy()
        for step in range(1, min(radius, near.shape[axis] - 1) + 1):
            low, high = [slice(None)] * 3, [slice(None)] * 3
            low[axis], high[axis] = slice(None, -step), slice(step, None)
            grown[tuple(high)] |= near[tuple(low)]
            grown[tuple(low)] |= near[tuple(high)]
        near = grown
    found[:, *box] = near
    return found


def _cover(mask: Mask, axis: int, size: int) -> Mask:
    """Maximum over the interval of the axis that each of `size` positions covers."""
    old = mask.shape[axis]
    if old == size:
        return mask
    step = old // size
    if old % size == 0 and step <= FEW:
        parts = [mask[(slice(None),) * axis + (slice(start, None, step),)] for start in range(step)]
        return reduce(np.logical_or, parts)
    if old % size == 0:
        split = mask.reshape(*mask.shape[:axis], size, step, *mask.shape[axis + 1 :])
        return np.asarray(split.any(axis + 1))
    if size % old == 0:
        return mask.repeat(size // old, axis)
    start = np.arange(size) * old // size
    stop = -(-np.arange(1, size + 1) * old // size)
    counts = np.insert(np.cumsum(mask, axis=axis, dtype=np.int64), 0, 0, axis=axis)
    return np.asarray(counts.take(stop, axis) > counts.take(start, axis))


def spread(region: Region, grid: Grid, policy: Policy) -> Mask:
    """The active positions of one grid under a policy with shared regions, `[1 or B, H, W]`."""
    grown = _grown(region, policy.dilate)
    if grid == region.grid:
        return grown.mask.copy()  # a mask of a region cannot be written
    return dilate(grown.on(grid).mask, policy.dilate_grid)


@lru_cache(8)
def _grown(region: Region, radius: int) -> Region:
    """`Region.dilated`, once for the grids of all networks that an edit runs through."""
    return region.dilated(radius)


def scattered(active: Mask, count: int, distance: int) -> Mask:
    """Up to `count` positions spread over what is further than `distance` from the active ones, per sample.

    The map is cut into cells of equal size; each gives the position nearest its centre that is free.
    """
    free = ~dilate(active, distance)
    probes = np.zeros_like(free)
    _, height, width = free.shape
    rows = max(1, min(height, count, round((count * height / width) ** 0.5)))
    columns = max(1, min(width, count // rows))
    cells, ys, xs = _cells(height, width, rows, columns)
    centres = free[:, ys, xs]
    probes[:, ys, xs] = centres
    for sample, number in zip(*np.nonzero(~centres), strict=True):
        (y0, y1), (x0, x1) = cells[number]
        cell = np.where(free[sample, y0:y1, x0:x1], _away(y0, y1, x0, x1), np.iinfo(np.int64).max)
        best = cell.argmin()
        if free[sample, y0:y1, x0:x1].flat[best]:
            probes[sample, y0:y1, x0:x1].flat[best] = True
    return probes


def _away(y0: int, y1: int, x0: int, x1: int) -> npt.NDArray[np.int64]:
    """Square of twice the distance from the centre of a cell, for all its positions."""
    y, x = np.ogrid[y0:y1, x0:x1]
    away: npt.NDArray[np.int64] = (2 * y + 1 - y0 - y1) ** 2 + (2 * x + 1 - x0 - x1) ** 2
    return away


@lru_cache(64)
def _cells(height: int, width: int, rows: int, columns: int) -> tuple[list[tuple[Any, Any]], Any, Any]:
    """A map cut into `rows * columns` cells: where each begins and ends, and the positions nearest their centres."""
    lines = list(pairwise(np.linspace(0, height, rows + 1).astype(int)))
    cells = list(product(lines, pairwise(np.linspace(0, width, columns + 1).astype(int))))
    ys, xs = [], []
    for (y0, y1), (x0, x1) in cells:
        y, x = divmod(int(_away(y0, y1, x0, x1).argmin()), x1 - x0)
        ys.append(y0 + y)
        xs.append(x0 + x)
    return cells, np.array(ys), np.array(xs)
