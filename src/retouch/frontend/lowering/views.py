"""Views, transposes, slices and concatenations, most of which only change the layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from retouch.frontend.lowering import joint
from retouch.frontend.lowering.context import Context, Item, NoRule, instr, rule
from retouch.frontend.lowering.heads import splits_heads, spread, within_heads
from retouch.frontend.lowering.pending import Complex, Joint, Scores, Strand
from retouch.ir.expr import Instr
from retouch.ir.geometry import AxisMap, Geometry
from retouch.ir.layout import Atom, Ref, axis
from retouch.ir.value import Value
from retouch.ops.dense import named
from retouch.ops.row_map import Map


def _layout(context: Context, argument: Any) -> Ref:
    """The operand's layout as it is; views may leave channels and positions mixed until someone computes."""
    item = context.item(argument)
    if not isinstance(item, Ref):
        raise NoRule("scores or joined tokens are read")
    return item


def reorder(context: Context, item: Item, order: Sequence[int]) -> Item:
    """`tensor.permute(order)` of rows, joined tokens or attention scores."""
    order = list(order)
    if isinstance(item, Joint):
        return joint.permute(context, item, order)
    if isinstance(item, Ref):
        return item.permute(order)
    if isinstance(item, Scores) and order == list(range(len(order))):
        return item
    if isinstance(item, Scores) and order == swapped(len(order), -1, -2):
        return replace(item, transposed=not item.transposed)
    raise NoRule("scores or joined tokens are read")


@rule("view.default", "_unsafe_view.default", "reshape.default", "flatten.using_ints", "unflatten.int",
      "unsqueeze.default", "squeeze.dim", "squeeze.dims", "squeeze.default", "view_copy.default")  # fmt: skip
def view(context: Context, node: Node) -> Item:
    item, shape = context.item(context.arg(node, 0)), tuple(node.meta["val"].shape)
    if isinstance(item, Joint):
        return joint.view(context, item, shape)
    return _layout(context, context.arg(node, 0)).view(shape)


@rule("expand.default")
def expand(context: Context, node: Node) -> Item:
    ref, shape = _layout(context, context.arg(node, 0)), tuple(node.meta["val"].shape)
    if ref.shape == shape:
        return ref
    wider = [i for i, (a, b) in enumerate(zip(ref.shape, shape, strict=False)) if a != b]
    if len(ref.shape) != len(shape) or len(wider) != 1 or ref.value.channels > 1:
        raise NoRule("rows are repeated")
    value = context.rows_like(node, ref, shape[wider[0]])
    out = context.add(Map(value, (Instr("rows", 0),), (ref.value,)))
    return Ref(out, tuple(axis("c", value.channels) if i == wider[0] else d for i, d in enumerate(ref.dims)))


def swapped(dims: int, a: int, b: int) -> list[int]:
    """The order of so many dimensions of which two are exchanged."""
    order = list(range(dims))
    order[a], order[b] = order[b], order[a]
    return order


def swap(ref: Ref, a: int, b: int) -> Ref:
    """`tensor.transpose(a, b)`."""
    return ref.permute(swapped(len(ref.dims), a, b))


@rule("permute.default")
def permute(context: Context, node: Node) -> Item:
    dims = len(node.meta["val"].shape)
    return reorder(context, context.item(context.arg(node, 0)), [i % dims for i in context.arg(node, 1)])


@rule("transpose.int")
def transpose(context: Context, node: Node) -> Item:
    dims = len(node.meta["val"].shape)
    return reorder(
        context, context.item(context.arg(node, 0)), swapped(dims, int(context.arg(node, 1)), int(context.arg(node, 2)))
    )


@rule("t.default")
def t(context: Context, node: Node) -> Item:
    ref = _layout(context, context.arg(node, 0))
    return swap(ref, 0, 1) if len(ref.dims) == 2 else ref


def axis_at(ref: Ref, dim: int) -> str:
    """The axis, "h" or "w", that is dimension `dim`, whole; NoRule when none is."""
    if ref.is_image and dim in (2, 3):
        return "hw"[dim - 2]
    for name, size in (("h", ref.value.map.height), ("w", ref.value.map.width)):
        if size > 1 and ref.dims[dim] == axis(name, size):
            return name
    raise NoRule(f"dimension {dim} is neither height nor width")


def move(context: Context, node: Node, ref: Ref, maps: dict[int, AxisMap]) -> Ref:
    """Rows moved along dimensions that are height or width."""
    found = {"h": AxisMap.identity(ref.value.map.height), "w": AxisMap.identity(ref.value.map.width)}
    found.update((axis_at(ref, dim), moved) for dim, moved in maps.items())
    return context.remap(node, ref, Geometry(found["h"], found["w"]))


def narrow(context: Context, node: Node, ref: Ref, dim: int, start: int, stop: int, step: int) -> Ref:
    """Part of one dimension: whole channels or positions of an image."""
    if (start, stop, step) == (0, ref.shape[dim], 1):
        return ref
    if stop <= start:
        raise NoRule("a slice of nothing")
    if {a.axis for a in ref.dims[dim]} == {"c"} and ref.channels_at(dim) and step == 1:
        return context.channels(node, ref, start, stop - start)
    if splits_heads(ref, dim) and step == 1:
        return within_heads(context, node, ref, dim, start, stop - start)
    return move(context, node, ref, {dim: AxisMap.slice(ref.shape[dim], start, stop, step)})


@rule("slice.Tensor")
def slice_tensor(context: Context, node: Node) -> Item:
    item = context.item(context.arg(node, 0))
    if isinstance(item, Joint):
        bounds = slice(context.arg(node, 2, "start"), context.arg(node, 3, "end"))
        return joint.take(item, *bounds.indices(sum(item.sizes()))[:2])
    ref = context.ref(context.arg(node, 0))
    dim = int(context.arg(node, 1, "dim", 0)) % len(ref.dims)
    size = ref.shape[dim]
    start, stop, _ = slice(context.arg(node, 2, "start"), context.arg(node, 3, "end")).indices(size)
    return narrow(context, node, ref, dim, start, stop, int(context.arg(node, 4, "step", 1)))


def _selected(context: Context, node: Node, ref: Ref, dim: int, index: int) -> Ref:
    """One position of a dimension: of height, of width, or of what splits the channels outermost (a fused q, k, v)."""
    atoms, channels, rest = ref.dims[dim], ref.value.channels, tuple(d for i, d in enumerate(ref.dims) if i != dim)
    if not atoms:
        return Ref(ref.value, rest)
    index %= ref.shape[dim]
    if len(atoms) == 1 and atoms[0].axis == "c" and atoms[0].stride * atoms[0].size == channels:
        width = atoms[0].stride
        return Ref(context.slice(node, ref.value, index * width, width), rest)
    line = move(context, node, ref, {dim: AxisMap.slice(ref.shape[dim], index, index + 1, 1)})
    return Ref(line.value, tuple(d for i, d in enumerate(line.dims) if i != dim))


def is_paired(ref: Ref) -> bool:
    """Whether the last dimension is pairs of neighbouring channels."""
    return ref.dims[-1] == axis("c", 2) and ref.value.channels > 2


def _beside(context: Context, node: Node, first: Strand, second: Strand) -> Ref:
    """Single numbers of the same pairs as pairs: as they are or exchanged, with signs."""
    ref, channels = first.ref, first.ref.value.channels
    if second.ref != ref or {first.index, second.index} != {0, 1} or len(ref.dims) < 2:
        raise NoRule("pairs of other numbers")
    signs = context.constant_call(node.name + ".signs", (channels,), _alternating, first.sign, second.sign, channels)
    exchange = instr(("rows", 0), ("swap", 0)) if first.index else instr(("rows", 0))
    code = (*exchange, *instr(("vector", 0), ("mul", len(exchange) - 1, len(exchange))))
    heads = channels // (2 * ref.shape[-2])
    return context.map(node, ref, code, [ref.value], [context.channel_vector(signs, channels)], heads=heads)


@named
def _alternating(first: float, second: float, count: int) -> Tensor:
    return torch.tensor([first, second]).repeat(count // 2)


@rule("view_as_complex.default")
def view_as_complex(context: Context, node: Node) -> Item:
    ref = _layout(context, context.arg(node, 0))
    if not is_paired(ref):
        raise NoRule("complex numbers of other than neighbouring channels")
    return Complex(ref)


@rule("view_as_real.default")
def view_as_real(context: Context, node: Node) -> Item:
    item = context.item(context.arg(node, 0))
    if not isinstance(item, Complex):
        raise NoRule("real numbers")
    return item.ref


@rule("pad_sequence.default")
def pad_sequence(context: Context, node: Node) -> Item:
    """Of one sequence, which needs no padding."""
    items = [context.item(a) for a in context.arg(node, 0)]
    if len(items) > 1:
        raise NoRule("sequences of several lengths")
    shape = tuple(node.meta["val"].shape)
    return joint.view(context, items[0], shape) if isinstance(items[0], Joint) else items[0].view(shape)


@rule("select.int")
def select(context: Context, node: Node) -> Item:
    ref = _layout(context, context.arg(node, 0))
    return _selected(context, node, ref, int(context.arg(node, 1)) % len(ref.dims), int(context.arg(node, 2)))


@rule("unbind.int")
def unbind(context: Context, node: Node) -> Item:
    ref = _layout(context, context.arg(node, 0))
    dim = int(context.arg(node, 1, "dim", 0)) % len(ref.dims)
    if dim == len(ref.dims) - 1 and is_paired(ref):
        return [Strand(ref, 0), Strand(ref, 1)]
    return [_selected(context, node, ref, dim, i) for i in range(ref.shape[dim])]


def _pieces(context: Context, node: Node, sizes: Sequence[int], dim: int) -> list[Ref]:
    ref = context.ref(context.arg(node, 0))
    dim %= len(ref.dims)
    pieces, start = [], 0
    for size in sizes:
        pieces.append(narrow(context, node, ref, dim, start, start + size, 1))
        start += size
    return pieces


@rule("split.Tensor", "split_with_sizes.default", "chunk.default", "tensor_split.sections")
def split(context: Context, node: Node) -> Item:
    """The sizes of the pieces are those of the captured results."""
    dim = int(context.arg(node, 2, "dim", 0))
    sizes, item = [v.shape[dim] for v in node.meta["val"]], context.item(context.arg(node, 0))
    if isinstance(item, Joint):
        return [joint.take(item, stop - size, stop) for size, stop in zip(sizes, accumulate(sizes), strict=True)]
    return _pieces(context, node, sizes, dim)


@rule("cat.default")
def cat(context: Context, node: Node) -> Item:
    items = [context.item(a) for a in context.arg(node, 0)]
    dim = int(context.arg(node, 1, "dim", 0)) % len(node.meta["val"].shape)
    if any(isinstance(i, Value | Joint) for i in items):
        return joint.join(context, items, dim)
    refs = [context.ref(a) for a in context.arg(node, 0)]
    if any(ref.dims[dim] and not ref.channels_at(dim) for ref in refs):
        return joint.join(context, refs, dim)
    for ref in refs:
        if not ref.channels_at(dim):
            raise NoRule("a concatenation of positions")
        fits = ref.value.grid == refs[0].value.grid and ref.value.batch == refs[0].value.batch
        if not fits or any(d != e for i, (d, e) in enumerate(zip(ref.dims, refs[0].dims, strict=True)) if i != dim):
            raise NoRule("parts of different layouts")
    if refs[0].value.channels == 1:
        widest = next((r for r in refs if r.value.channels > 1), None)
        if widest is None:
            raise NoRule("a concatenation of single channels")
        return context.concat(node, refs) if widest is refs[0] else _concat_like(context, node, refs, widest)
    return context.concat(node, refs)


def _concat_like(context: Context, node: Node, refs: Sequence[Ref], template: Ref) -> Ref:
    joined = context.concat(node, refs)
    channels = joined.value.channels
    dims = tuple(tuple(type(a)(a.axis, a.stride, channels) if a.axis == "c" else a for a in d) for d in template.dims)
    return Ref(joined.value, dims)


@rule("stack.default")
def stack(context: Context, node: Node) -> Item:
    """A dimension of its own beside those of the parts: channels side by side."""
    items = [context.item(a) for a in context.arg(node, 0)]
    if len(items) == 2 and all(isinstance(item, Strand) for item in items):
        if int(context.arg(node, 1, "dim", 0)) % len(node.meta["val"].shape) != len(items[0].shape):
            raise NoRule("pairs in another dimension")
        return _beside(context, node, *items)
    refs = [_layout(context, a) for a in context.arg(node, 0)]
    first, dims = refs[0], len(node.meta["val"].shape)
    alike = {(r.dims, r.value.grid, r.value.batch, r.value.channels, r.value.dtype) for r in refs}
    if len(alike) > 1 or not first.is_whole:
        raise NoRule("parts of different layouts")
    if first.value.dtype != node.meta["val"].dtype:
        raise NoRule("parts of different types")
    dim = int(context.arg(node, 1, "dim", 0)) % dims
    new = (Atom("c", first.value.channels, len(refs)),) if len(refs) > 1 else ()
    return Ref(context.concat(node, refs).value, (*first.dims[:dim], new, *first.dims[dim:]))


PARTS = 16
"""Runs of channels that one operation may put together."""


def _rearranged(context: Context, node: Node, ref: Ref, dim: int, runs: Sequence[tuple[int, int]]) -> Ref:
    """Runs of channels (start, count) of dimension `dim` side by side."""
    if len(runs) > PARTS:
        raise NoRule(f"more than {PARTS} runs of channels")
    parts = [context.channels(node, ref, start, count) for start, count in runs]
    joined = context.concat(node, parts).value
    return Ref(joined, tuple(axis("c", joined.channels) if i == dim else d for i, d in enumerate(ref.dims)))


@rule("repeat.default", "tile.default")
def repeat(context: Context, node: Node) -> Item:
    ref, counts = context.ref(context.arg(node, 0)), [int(n) for n in context.arg(node, 1)]
    if len(counts) > len(ref.dims):
        raise NoRule("a repetition in another dimension")
    counts = [1] * (len(ref.dims) - len(counts)) + counts
    repeated = {dim: n for dim, n in enumerate(counts) if n != 1}
    positions = {dim: n for dim, n in repeated.items() if not ref.channels_at(dim)}
    for dim in repeated.keys() - positions.keys():
        ref = _rearranged(context, node, ref, dim, [(0, ref.value.channels)] * repeated[dim])
    return move(context, node, ref, {dim: AxisMap.tile(ref.shape[dim], n) for dim, n in positions.items()})


@rule("repeat_interleave.self_int")
def repeat_interleave(context: Context, node: Node) -> Item:
    ref, count, dim = context.ref(context.arg(node, 0)), int(context.arg(node, 1)), context.arg(node, 2, "dim")
    if dim is None:
        raise NoRule("a repetition of everything in one dimension")
    dim %= len(ref.dims)
    if ref.channels_at(dim):
        value = spread(context, node, ref.value, ref.value.channels * count)
        return Ref(value, tuple(axis("c", value.channels) if i == dim else d for i, d in enumerate(ref.dims)))
    return move(context, node, ref, {dim: AxisMap.repeat(ref.shape[dim], count)})


@rule("roll.default")
def roll(context: Context, node: Node) -> Item:
    """What leaves at one end comes in at the other: of height, width or channels."""
    ref, shifts, dims = context.ref(context.arg(node, 0)), context.arg(node, 1), context.arg(node, 2, "dims", ())
    if not dims:
        raise NoRule("a roll over all dimensions as one")
    moved: dict[int, int] = {}
    for dim, shift in zip(dims, shifts, strict=True):
        moved[dim % len(ref.dims)] = moved.get(dim % len(ref.dims), 0) + int(shift)
    positions = {dim: AxisMap.roll(ref.shape[dim], n) for dim, n in moved.items() if not ref.channels_at(dim)}
    for dim in moved.keys() - positions.keys():
        cut = -moved[dim] % ref.value.channels
        runs = [(cut, ref.value.channels - cut), (0, cut)] if cut else []
        ref = _rearranged(context, node, ref, dim, runs) if runs else ref
    return move(context, node, ref, positions)


@rule("flip.default")
def flip(context: Context, node: Node) -> Item:
    ref = context.ref(context.arg(node, 0))
    dims = [d % len(ref.dims) for d in context.arg(node, 1)]
    return move(context, node, ref, {dim: AxisMap.flip(ref.shape[dim]) for dim in dims})


@rule("pixel_shuffle.default")
def pixel_shuffle(context: Context, node: Node) -> Item:
    ref, r = context.ref(context.arg(node, 0)), int(context.arg(node, 1))
    b, c, h, w = ref.shape
    mixed = ref.view((b, c // (r * r), r, r, h, w)).permute((0, 1, 4, 2, 5, 3)).view((b, c // (r * r), h * r, w * r))
    return context.regular(mixed)


@rule("pixel_unshuffle.default")
def pixel_unshuffle(context: Context, node: Node) -> Item:
    ref, r = context.ref(context.arg(node, 0)), int(context.arg(node, 1))
    b, c, h, w = ref.shape
    mixed = ref.view((b, c, h // r, r, w // r, r)).permute((0, 1, 3, 5, 2, 4)).view((b, c * r * r, h // r, w // r))
    return context.regular(mixed)
