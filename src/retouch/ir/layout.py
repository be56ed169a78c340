"""Layouts: how a tensor of the captured graph looks at rows, so that views and transposes cost nothing.

Every tensor dimension is a product of atoms. An atom is a run of one of the four axes of a value: batch,
height, width or channels, with the stride it steps along that axis. An image (B, C, H, W) is
[(b), (c), (h), (w)]; tokens (B, H*W, C) are [(b), (h w), (c)]; heads (B, heads, H*W, d) are
[(b), (c stride d), (h w), (c stride 1)]. Axes of size 1 have no atom.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from torch import Tensor

from retouch.ir.geometry import Grid
from retouch.ir.value import Value


@dataclass(frozen=True)
class Atom:
    """`size` steps of `stride` along `axis` ("b", "h", "w" or "c")."""

    axis: str
    stride: int
    size: int


Dims = tuple[tuple[Atom, ...], ...]


class LayoutError(ValueError):
    """A view or transpose that rows cannot express."""


def axis(name: str, size: int) -> tuple[Atom, ...]:
    """A whole axis as atoms; none for an axis of one position."""
    return (Atom(name, 1, size),) if size > 1 else ()


def positions(value: Value) -> tuple[Atom, ...]:
    """All positions of a map, one after the other."""
    return axis("h", value.map.height) + axis("w", value.map.width)


def merge(atoms: Sequence[Atom]) -> tuple[Atom, ...]:
    """Join neighbouring atoms that together are one run of their axis."""
    joined: list[Atom] = []
    for atom in atoms:
        last = joined[-1] if joined else None
        if last and last.axis == atom.axis and last.stride == atom.stride * atom.size:
            joined[-1] = Atom(atom.axis, atom.stride, last.size * atom.size)
        else:
            joined.append(atom)
    return tuple(joined)


def split(atoms: Sequence[Atom], sizes: Sequence[int]) -> Dims:
    """Regroup a run of atoms into dimensions of the given sizes."""
    pending = list(atoms)
    groups = []
    for size in sizes:
        group: list[Atom] = []
        while size > 1:
            if not pending:
                raise LayoutError("view changes the number of elements")
            atom = pending.pop(0)
            if size % atom.size == 0:
                group.append(atom)
                size //= atom.size
            elif atom.size % size == 0:
                inner = atom.size // size
                group.append(Atom(atom.axis, atom.stride * inner, size))
                pending.insert(0, Atom(atom.axis, atom.stride, inner))
                size = 1
            else:
                raise LayoutError(f"view cuts {atom} into {size}")
        groups.append(merge(group))
    if pending:
        raise LayoutError("view changes the number of elements")
    return tuple(groups)


@dataclass(frozen=True)
class Ref:
    """A tensor of the graph as a layout of a value's rows."""

    value: Value
    dims: Dims

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(math.prod(a.size for a in dim) for dim in self.dims)

    def permute(self, order: Sequence[int]) -> Ref:
        return replace(self, dims=tuple(self.dims[i] for i in order))

    def view(self, shape: Sequence[int]) -> Ref:
        """The layout after `tensor.reshape(shape)` (one -1 allowed); LayoutError when rows cannot express it."""
        total = math.prod(self.shape)
        known = math.prod(s for s in shape if s != -1)
        sizes = [total // known if s == -1 else s for s in shape]
        return replace(self, dims=split([a for dim in self.dims for a in dim], sizes))

    def tensor(self, rows: Tensor) -> Tensor:
        """The graph's tensor from rows `[B*H*W, C]` (a view where strides allow)."""
        grid = self.value.map
        row = rows.stride(0)
        step = {"b": row * grid.size, "h": row * grid.width, "w": row, "c": 1}
        atoms = [a for dim in self.dims for a in dim]
        strides = [a.stride * step[a.axis] for a in atoms]
        return rows.as_strided([a.size for a in atoms], strides, rows.storage_offset()).reshape(self.shape)

    def rows(self, tensor: Tensor) -> Tensor:
        """Rows `[B*H*W, C]`, contiguous, from the graph's tensor: the inverse of `tensor`."""
        return self._by_axis(tensor).reshape(self.value.rows, self.value.channels).contiguous()

    def _by_axis(self, tensor: Tensor) -> Tensor:
        """The graph's tensor as `[B, H, W, C]`, a view where strides allow."""
        value, grid = self.value, self.value.map
        atoms = [a for dim in self.dims for a in dim]
        rank = {"b": 0, "h": 1, "w": 2, "c": 3}
        order = sorted(range(len(atoms)), key=lambda i: (rank[atoms[i].axis], -atoms[i].stride))
        parts = tensor.reshape([a.size for a in atoms]).permute(order)
        return parts.reshape(value.batch, grid.height, grid.width, value.channels)

    def taken(self, tensor: Tensor, index: Tensor) -> Tensor:
        """Rows `index`, int64 `[M]`, of `rows(tensor)`, without making the others."""
        grid = self.value.map
        position = index % grid.size
        return self._by_axis(tensor)[index // grid.size, position // grid.width, position % grid.width]

    @property
    def is_whole(self) -> bool:
        """Whether all rows and channels are there; channels are left out along which the rows are constant."""
        return math.prod(self.shape) == self.value.rows * self.value.channels

    @property
    def is_image(self) -> bool:
        return self.dims == image(self.value).dims

    def channels_at(self, dim: int) -> bool:
        """Whether dimension `dim` is all channels of the value, in order."""
        return self.dims[dim] == axis("c", self.value.channels) and self.channel_dims() in ([dim % len(self.dims)], [])

    def spatial_dims(self) -> list[int]:
        """Dimensions with an atom of height or width."""
        return [i for i, dim in enumerate(self.dims) if any(a.axis in "hw" for a in dim)]

    def channel_dims(self) -> list[int]:
        """Dimensions with a channel atom."""
        return [i for i, dim in enumerate(self.dims) if any(a.axis == "c" for a in dim)]


@dataclass(frozen=True)
class Layout:
    """How an input of the module is rows: the axes in each of its dimensions, and its grid.

    `dims` name axes by their letters, "" for a dimension of size 1. Tokens (B, H*W, C) are ("b", "hw", "c").
    references: grids of other pictures, whose positions follow in the same dimension.
    """

    dims: tuple[str, ...]
    grid: Grid
    references: tuple[Grid, ...] = ()

    @property
    def parts(self) -> tuple[Layout, ...]:
        """That of every picture."""
        return tuple(Layout(self.dims, grid) for grid in (self.grid, *self.references))

    def split(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """The tensor of every picture; LayoutError when it is none of this layout."""
        if not self.references:
            return (tensor,)
        dim, sizes = self.dims.index("hw"), [part.grid.size for part in self.parts]
        if len(tensor.shape) != len(self.dims) or tensor.shape[dim] != sum(sizes):
            raise LayoutError(f"{list(tensor.shape)} has not {' + '.join(map(str, sizes))} positions")
        starts = accumulate(sizes, initial=0)
        return tuple(tensor.narrow(dim, start, size) for start, size in zip(starts, sizes, strict=False))

    def batch_and_channels(self, shape: Sequence[int]) -> tuple[int, int]:
        """Samples and channels of a tensor of this shape; LayoutError when it is none of this layout."""
        sizes = {"h": self.grid.height, "w": self.grid.width}
        if len(shape) == len(self.dims):
            sizes |= {d: n for d, n in zip(self.dims, shape, strict=True) if d in ("b", "c")}
            if [math.prod(sizes[a] for a in d) for d in self.dims] == list(shape):
                return sizes.get("b", 1), sizes.get("c", 1)
        raise LayoutError(
            f"{list(shape)} is not [{', '.join('*'.join(d.upper()) or '1' for d in self.dims)}] on {self.grid}"
        )

    def of(self, value: Value) -> Ref:
        """The rows of a value in this layout."""
        sizes = {"b": value.batch, "h": self.grid.height, "w": self.grid.width, "c": value.channels}
        return Ref(value, tuple(tuple(x for a in d for x in axis(a, sizes[a])) for d in self.dims))


def tokens(height: int, width: int, *references: tuple[int, int]) -> Layout:
    """The layout of a map that comes as tokens, `[B, height * width, C]`, row by row.

    references: height and width of other pictures, whose tokens follow in the same sequence. Regions are those of the
    first. The others stay as recorded, but where one is given changed, which is then computed whole, and under `exact`.
    """
    return Layout(
        ("b", "hw", "c"), Grid(height, width), tuple(Grid(*size, reference=k) for k, size in enumerate(references, 1))
    )


def of_width(heads: Ref, value: Value, width: int) -> Ref:
    """The layout of another value whose heads, of `width` channels in the last dimension, lie as those of `heads`."""
    dims = [tuple(Atom("c", width, a.size) if a.axis == "c" else a for a in d) for d in heads.dims[:-1]]
    return Ref(value, (*dims, axis("c", width)))


def image(value: Value) -> Ref:
    """The layout (B, C, H, W)."""
    grid = value.map
    return Ref(
        value, (axis("b", value.batch), axis("c", value.channels), axis("h", grid.height), axis("w", grid.width))
    )


def regrid(ref: Ref, value: Value) -> Ref:
    """`value`, of another grid, in the arrangement of `ref`; LayoutError unless height and width are whole there."""
    old, new = ref.value.grid, value.grid
    assert old is not None
    assert new is not None
    if ref.is_image:
        return image(value)
    before = {"h": axis("h", old.height), "w": axis("w", old.width)}
    after = {"h": axis("h", new.height), "w": axis("w", new.width)}
    atoms = [a for dim in ref.dims for a in dim if a.axis in before]
    if sorted(atoms, key=str) != [a for run in before.values() for a in run]:
        raise LayoutError("height and width are not whole")
    if any(after[name] and not run for name, run in before.items()):
        raise LayoutError("the place of a new dimension is unknown")
    return Ref(value, tuple(tuple(b for a in dim for b in after.get(a.axis, (a,))) for dim in ref.dims))


def like(ref: Ref, value: Value) -> Ref:
    """`value` in the arrangement of `ref`: same grid and batch, whole channels in place of ref's."""
    dims = tuple(axis("c", value.channels) if any(a.axis == "c" for a in dim) else dim for dim in ref.dims)
    return Ref(value, dims)
