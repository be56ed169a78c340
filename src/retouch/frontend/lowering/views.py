"""Views, transposes, slices and concatenations, most of which only change the layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.fx import Node

from retouch.frontend.lowering import joint
from retouch.frontend.lowering.context import Context, Item, Joint, NoRule, rule
from retouch.ir.geometry import AxisMap, Geometry
from retouch.ir.layout import Ref
from retouch.ir.value import Value


def _layout(context: Context, argument: Any) -> Ref:
    """The operand's layout as it is; views may leave channels and positions mixed until someone computes."""
    item = context.item(argument)
    if not isinstance(item, Ref):
        raise NoRule("scores or joined tokens are read")
    return item


def _reorder(context: Context, node: Node, order: Sequence[int]) -> Item:
    item = context.item(context.arg(node, 0))
    if isinstance(item, Joint):
        return joint.permute(context, item, order)
    return _layout(context, context.arg(node, 0)).permute(order)


@rule("view.default", "_unsafe_view.default", "reshape.default", "flatten.using_ints", "unflatten.int",
      "unsqueeze.default", "squeeze.dim", "squeeze.dims", "squeeze.default", "view_copy.default")  # fmt: skip
def view(context: Context, node: Node) -> Item:
    item, shape = context.item(context.arg(node, 0)), tuple(node.meta["val"].shape)
    if isinstance(item, Joint):
        return joint.view(context, item, shape)
    return _layout(context, context.arg(node, 0)).view(shape)


@rule("expand.default")
def expand(context: Context, node: Node) -> Item:
    ref = _layout(context, context.arg(node, 0))
    if ref.shape != tuple(node.meta["val"].shape):
        raise NoRule("rows are repeated")
    return ref


def _swapped(dims: int, a: int, b: int) -> list[int]:
    order = list(range(dims))
    order[a], order[b] = order[b], order[a]
    return order


def swap(ref: Ref, a: int, b: int) -> Ref:
    """`tensor.transpose(a, b)`."""
    return ref.permute(_swapped(len(ref.dims), a, b))


@rule("permute.default")
def permute(context: Context, node: Node) -> Item:
    dims = len(node.meta["val"].shape)
    return _reorder(context, node, [i % dims for i in context.arg(node, 1)])


@rule("transpose.int")
def transpose(context: Context, node: Node) -> Item:
    dims = len(node.meta["val"].shape)
    return _reorder(context, node, _swapped(dims, int(context.arg(node, 1)), int(context.arg(node, 2))))


@rule("t.default")
def t(context: Context, node: Node) -> Item:
    ref = _layout(context, context.arg(node, 0))
    return swap(ref, 0, 1) if len(ref.dims) == 2 else ref


@rule("einsum.default")
def einsum(context: Context, node: Node) -> Item:
    """A permutation written as an einsum."""
    equation, operands = str(context.arg(node, 0)).replace(" ", ""), context.arg(node, 1)
    source, _, target = equation.partition("->")
    if len(operands) != 1 or sorted(source) != sorted(target) or len(set(source)) != len(source):
        raise NoRule("an einsum that is no permutation")
    return _layout(context, operands[0]).permute([source.index(c) for c in target])


def narrow(context: Context, node: Node, ref: Ref, dim: int, start: int, stop: int, step: int) -> Ref:
    """Part of one dimension: whole channels or positions of an image."""
    if (start, stop, step) == (0, ref.shape[dim], 1):
        return ref
    axes = {a.axis for a in ref.dims[dim]}
    if axes == {"c"} and ref.channels_at(dim) and step == 1:
        return context.channels(node, ref, start, stop - start)
    if axes <= {"h", "w"} and ref.is_image:
        return crop(context, node, ref, dim, start, stop, step)
    raise NoRule(f"a slice of dimension {dim}")


def crop(context: Context, node: Node, ref: Ref, dim: int, start: int, stop: int, step: int) -> Ref:
    """Part of the height (dim 2) or width (dim 3) of an image."""
    grid = ref.value.grid
    assert grid is not None
    y, x = AxisMap.identity(grid.height), AxisMap.identity(grid.width)
    part = AxisMap.slice(ref.shape[dim], start, stop, step)
    return context.remap(node, ref, Geometry(part, x) if dim == 2 else Geometry(y, part))


@rule("slice.Tensor")
def slice_tensor(context: Context, node: Node) -> Item:
    item = context.item(context.arg(node, 0))
    if isinstance(item, Joint):
        dim, shape = int(context.arg(node, 1, "dim", 0)), node.args[0].meta["val"].shape  # type: ignore[union-attr]
        bounds = slice(context.arg(node, 2, "start"), context.arg(node, 3, "end"))
        start, stop, _ = bounds.indices(shape[dim])
        return joint.take(item, dim % len(shape), start, stop)
    ref = context.ref(context.arg(node, 0))
    dim = int(context.arg(node, 1, "dim", 0)) % len(ref.dims)
    size = ref.shape[dim]
    start, stop, _ = slice(context.arg(node, 2, "start"), context.arg(node, 3, "end")).indices(size)
    return narrow(context, node, ref, dim, start, stop, int(context.arg(node, 4, "step", 1)))


def _selected(context: Context, node: Node, ref: Ref, dim: int, index: int) -> Ref:
    """One position of a dimension that splits the channels outermost, such as the 3 of a fused q, k, v."""
    atoms, channels = ref.dims[dim], ref.value.channels
    if len(atoms) != 1 or atoms[0].axis != "c" or atoms[0].stride * atoms[0].size != channels:
        raise NoRule(f"one position of dimension {dim}")
    width = atoms[0].stride
    part = context.slice(node, ref.value, index % atoms[0].size * width, width)
    return Ref(part, tuple(d for i, d in enumerate(ref.dims) if i != dim))


@rule("select.int")
def select(context: Context, node: Node) -> Item:
    ref = _layout(context, context.arg(node, 0))
    return _selected(context, node, ref, int(context.arg(node, 1)) % len(ref.dims), int(context.arg(node, 2)))


@rule("unbind.int")
def unbind(context: Context, node: Node) -> Item:
    ref = _layout(context, context.arg(node, 0))
    dim = int(context.arg(node, 1, "dim", 0)) % len(ref.dims)
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
    return _pieces(context, node, [v.shape[dim] for v in node.meta["val"]], dim)


@rule("cat.default")
def cat(context: Context, node: Node) -> Item:
    items = [context.item(a) for a in context.arg(node, 0)]
    dim = int(context.arg(node, 1, "dim", 0)) % len(node.meta["val"].shape)
    if any(isinstance(i, Value) for i in items):
        return joint.join(context, items, dim)
    refs = [context.ref(a) for a in context.arg(node, 0)]
    for ref in refs:
        fits = ref.value.grid == refs[0].value.grid and ref.value.batch == refs[0].value.batch
        if not fits or any(d != e for i, (d, e) in enumerate(zip(ref.dims, refs[0].dims, strict=True)) if i != dim):
            raise NoRule("parts of different layouts")
        if not ref.channels_at(dim):
            raise NoRule("a concatenation of positions")
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


@rule("flip.default")
def flip(context: Context, node: Node) -> Item:
    ref, axes = context.ref(context.arg(node, 0)), {d % 4 for d in context.arg(node, 1)}
    if not ref.is_image or not axes <= {2, 3}:
        raise NoRule("a flip of other than height and width")
    grid = ref.value.grid
    assert grid is not None
    y = AxisMap.flip(grid.height) if 2 in axes else AxisMap.identity(grid.height)
    x = AxisMap.flip(grid.width) if 3 in axes else AxisMap.identity(grid.width)
    return context.remap(node, ref, Geometry(y, x))


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
