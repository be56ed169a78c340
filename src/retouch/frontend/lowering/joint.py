"""Tokens of a map and of a text in one sequence, as transformers of text and image join them (SD3, Flux).

The parts stay apart: what treats every token alike is done for each of them, and attention reads keys and values of
all. A text becomes rows, on a grid of its own, where it first attends to the map.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from retouch.frontend.lowering.context import RULES, Context, Item, NoRule
from retouch.frontend.lowering.pending import Joint
from retouch.ir.geometry import Grid
from retouch.ir.layout import Ref, axis, positions
from retouch.ir.value import Matrix, Value
from retouch.ops.dense import Lift

ELEMENTWISE = ("activations", "logic", "pointwise")
"""Files of rules whose operands are broadcast against each other."""

TOKENWISE = {
    "linear.default": None, "layer_norm.default": None, "rms_norm.default": None, "mean.dim": None,
    "sum.dim_IntList": None, "stack.default": None, "unbind.int": None, "select.int": None, "cat.default": 1,
    "split.Tensor": 2, "split_with_sizes.default": 2, "chunk.default": 2, "slice.Tensor": 1,
    "view_as_complex.default": None, "view_as_real.default": None,
}  # fmt: skip
"""Other operations that treat every token alike as long as the tokens stay a dimension of the result. A number is the
place of the argument that must be another dimension: along the tokens the rule joins or cuts them.
"""


def join(context: Context, items: Sequence[Item], dim: int) -> Joint:
    """Concatenate rows and dense values along their tokens; NoRule for anything else."""
    parts: list[Item] = []
    for item in items:
        if isinstance(item, Ref):
            item = context.regular(item)
            if item.dims[dim] != positions(item.value):
                raise NoRule("a concatenation of positions, not of whole maps")
        parts += item.parts if isinstance(item, Joint) and item.dim == dim else [item]
    if not all(isinstance(p, Ref | Value) for p in parts):
        raise NoRule("tokens joined with something else")
    return Joint(tuple(parts), dim)


def permute(context: Context, joint: Joint, order: Sequence[int]) -> Joint:
    """Reorder the dimensions of all parts."""
    order = [i % len(order) for i in order]
    parts = tuple(p.permute(order) if isinstance(p, Ref) else context.permuted(p, order) for p in joint.parts)
    return Joint(parts, order.index(joint.dim))


def view(context: Context, joint: Joint, shape: Sequence[int]) -> Joint:
    """Reshape all parts; NoRule where the tokens are no dimension of `shape`."""
    total, before = sum(joint.sizes()), torch.Size(joint.parts[0].shape[: joint.dim]).numel()
    places = [i for i, n in enumerate(shape) if n == total and torch.Size(shape[:i]).numel() == before]
    if not places:
        raise NoRule("a view of joined tokens that mixes them")
    dim = places[0]
    parts: list[Ref | Value] = []
    for part, size in zip(joint.parts, joint.sizes(), strict=True):
        own = [size if i == dim else s for i, s in enumerate(shape)]
        if isinstance(part, Ref):
            parts.append(part.view(own))
        else:
            parts.append(context.dense_call(part.name, own, part.dtype, torch.ops.aten.reshape.default, (part, own)))
    return Joint(tuple(parts), dim)


def take(joint: Joint, start: int, stop: int) -> Item:
    """The part, or the parts, that a slice along the tokens selects."""
    begin, found = 0, []
    for part, size in zip(joint.parts, joint.sizes(), strict=True):
        if start <= begin and begin + size <= stop:
            found.append(part)
        elif begin < stop and start < begin + size:
            raise NoRule("a slice of joined tokens that cuts a part of them")
        begin += size
    if not found:
        raise NoRule("a slice of nothing")
    return found[0] if len(found) == 1 else Joint(tuple(found), joint.dim)


def is_apart(node: Node, items: Sequence[Item]) -> bool:
    """Whether an operation on joined tokens is one for each part; else its rule knows what to do with them."""
    name = str(node.target).removeprefix("aten.")
    if _is_elementwise(node):
        return True
    place = TOKENWISE.get(name, -1)
    if place is None or place < 0:
        return place is None
    tokens = next(item for item in items if isinstance(item, Joint))
    dim = node.args[place] if len(node.args) > place else node.kwargs.get("dim", 0)
    return int(dim) % len(tokens.parts[0].shape) != tokens.dim  # type: ignore[arg-type]


def _is_elementwise(node: Node) -> bool:
    return RULES[str(node.target)].__module__.rpartition(".")[2] in ELEMENTWISE


def distribute(context: Context, node: Node, lower: Callable[[Node], Item]) -> Item:
    """What a node becomes that treats every token alike: its parts joined, each computed by itself."""
    joints = [context.items[n] for n in node.all_input_nodes if isinstance(context.items[n], Joint)]
    sizes = joints[0].sizes()
    if any(joint.sizes() != sizes for joint in joints):
        raise NoRule("tokens that are joined in several ways")
    parts, start = [], 0
    for number, size in enumerate(sizes):
        part = _part(context, node, number, slice(start, start + size), sum(sizes))
        parts.append((part.meta["val"], lower(part)))
        context.items[part] = parts[-1][1]
        start += size
    whole = node.meta["val"]
    if isinstance(whole, Tensor):
        return _joined(whole, parts, sizes)
    return [
        _joined(each, [(meta[i], _taken(context, meta[i], item, i)) for meta, item in parts], sizes)
        for i, each in enumerate(whole)
    ]


def _taken(context: Context, meta: Tensor, item: Item, number: int) -> Item:
    """One of several results."""
    if not isinstance(item, Value):
        return item[number]
    return context.dense_call(item.name, meta.shape, meta.dtype, operator.getitem, (item, number))


def _part(context: Context, node: Node, number: int, place: slice, total: int) -> Node:
    """The node for one part of the joined tokens among its arguments."""
    graph = Graph()
    alike = _is_elementwise(node)
    back = next(
        item.dim - len(n.meta["val"].shape) for n in node.all_input_nodes if isinstance(item := context.items[n], Joint)
    )

    def of(argument: Node) -> Node:
        item, meta = context.items[argument], argument.meta["val"]
        if isinstance(item, Joint):
            item, dim = item.parts[number], item.dim
        elif alike and isinstance(item, Value) and len(meta.shape) >= -back and meta.shape[back] == total:
            dim, shape = len(meta.shape) + back, list(meta.shape)
            shape[dim] = place.stop - place.start
            arguments = (item, dim, place.start, shape[dim])
            item = context.dense_call(item.name, shape, item.dtype, torch.narrow, arguments)
        else:
            return argument
        made = graph.placeholder(argument.name)
        made.meta["val"] = meta.narrow(dim, place.start, place.stop - place.start)
        context.items[made] = item
        return made

    args, kwargs = map_arg((node.args, node.kwargs), of)
    part = graph.create_node("call_function", node.target, args, kwargs, name=node.name)
    values = map_arg((args, kwargs), lambda n: n.meta["val"])
    part.meta["val"] = node.target(*values[0], **values[1])  # type: ignore[operator]
    return part


def _joined(whole: Tensor, parts: Sequence[tuple[Tensor, Item]], sizes: Sequence[int]) -> Joint:
    """Items side by side in the dimension in which their shapes add up; NoRule when there is none."""
    shapes = [list(meta.shape) for meta, _ in parts]
    dims = [i for i in range(whole.dim()) if [shape[i] for shape in shapes] == list(sizes)]
    for dim in dims:
        if all([*shape[:dim], whole.shape[dim], *shape[dim + 1 :]] == list(whole.shape) for shape in shapes):
            return Joint(tuple(item for _, item in parts), dim)
    raise NoRule("an operation over joined tokens")


def rows(context: Context, value: Value) -> Ref:
    """A text (B, heads, S, d) that has no grid yet as rows."""
    batch, heads, length, width = value.shape
    grid, channels = Grid(1, length, text=True), heads * width
    out = Value(context.unique(value.name + ".rows"), (), value.dtype, grid, batch, channels)
    matrix = Matrix(value, value.shape, (0, 2, 1, 3), (batch * length, channels), value.dtype)
    context.add(Lift(out, matrix))
    tokens: list[Any] = [axis("b", batch), axis("w", length), axis("c", channels)]
    return Ref(out, tuple(tokens)).view((batch, length, heads, width)).permute((0, 2, 1, 3))
