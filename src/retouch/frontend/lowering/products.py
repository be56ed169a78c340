"""Products of two tensors: linear layers, attention and linear attention as matmul or einsum, in any order."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from retouch.frontend.lowering.attention import operand, scores, weighted
from retouch.frontend.lowering.context import Context, Item, NoRule, rule
from retouch.frontend.lowering.conv import project
from retouch.frontend.lowering.linear_attention import is_over_positions, outer, per_head
from retouch.frontend.lowering.pending import Scores
from retouch.frontend.lowering.views import reorder, swap, swapped
from retouch.ir.layout import Ref
from retouch.ir.value import Value


def product(context: Context, node: Node, left: Item, right: Item) -> Ref | Value | Scores:
    """`left @ right`: scores q k^T, scores times values, a linear layer, or either step of linear attention."""
    if isinstance(left, Scores):
        return weighted(context, node, left, operand(context, right))
    if isinstance(right, Scores):  # v (q k^T) is the transpose of (k q^T) v^T
        values = _transposed(context, operand(context, left))
        return swap(weighted(context, node, _flipped(right), values), -1, -2)
    if isinstance(left, Ref) and _is_weight(context, right):
        return project(context, node, context.regular(left), right, None, "matmul")
    if isinstance(right, Ref) and _is_weight(context, left):
        return swap(project(context, node, swap(context.regular(right), -1, -2), left, None, "linear"), -1, -2)
    if not isinstance(left, Ref):
        if not isinstance(left, Value) or not isinstance(right, Ref):
            raise NoRule("a product of what is not known")
        return swap(per_head(context, node, swap(context.regular(right), -1, -2), _turned(context, left)), -1, -2)
    if isinstance(right, Ref) and is_over_positions(context, left):
        return outer(context, node, context.regular(left), context.regular(right))
    if isinstance(right, Value) and not _is_softmaxed(node):
        return per_head(context, node, context.regular(left), right)
    return scores(context.regular(left), _transposed(context, operand(context, right)))


def _is_weight(context: Context, item: Item) -> bool:
    return isinstance(item, Value) and item in context.constant and len(item.shape) == 2


_BEFORE_SOFTMAX = {"mul", "div", "add", "view", "_unsafe_view", "_to_copy", "permute", "transpose", "expand", "clone"}


def _is_softmaxed(node: Node) -> bool:
    """Whether a product with a dense value is the scores of attention."""
    names = {user: str(user.target).split(".")[1] for user in node.users if "." in str(user.target)}
    return any("softmax" in name or (name in _BEFORE_SOFTMAX and _is_softmaxed(user)) for user, name in names.items())


def _flipped(given: Scores) -> Scores:
    return Scores(given.q, given.k, given.scale, given.softmaxed, not given.transposed)


def _transposed(context: Context, item: Ref | Value) -> Ref | Value:
    """The last two dimensions swapped."""
    return swap(item, -1, -2) if isinstance(item, Ref) else _turned(context, item)


def _turned(context: Context, item: Value) -> Value:
    if len(item.shape) < 2:
        raise NoRule("a product with a vector")
    return context.permuted(item, swapped(len(item.shape), -1, -2))


@rule("matmul.default", "bmm.default", "mm.default")
def matmul(context: Context, node: Node) -> Item:
    return product(context, node, context.item(context.arg(node, 0)), context.item(context.arg(node, 1)))


@rule("baddbmm.default")
def baddbmm(context: Context, node: Node) -> Item:
    """Scores as older attention processors compute them: beta 0, the scale as alpha."""
    if context.option(node, "beta", 1) != 0:
        raise NoRule("scores with an added bias")
    left, right = context.ref(context.arg(node, 1)), context.item(context.arg(node, 2))
    keys = _transposed(context, operand(context, right))
    return scores(left, keys, float(context.option(node, "alpha", 1)))


@rule("einsum.default")
def einsum(context: Context, node: Node) -> Item:
    """A permutation, or a sum over one index of two operands."""
    equation, operands = str(context.arg(node, 0)).replace(" ", ""), context.arg(node, 1)
    source, _, target = equation.partition("->")
    terms, items = source.split(","), [context.item(a) for a in operands]
    if "." in equation or any(len(set(t)) != len(t) for t in (*terms, target)):
        raise NoRule("an einsum with dots or with an index twice in one operand")
    if len(terms) == 1 and sorted(source) == sorted(target):
        return reorder(context, items[0], [source.index(c) for c in target])
    if len(terms) != 2:
        raise NoRule("an einsum of more than two operands, or a sum of one")
    summed = set("".join(terms)) - set(target)
    if len(summed) != 1 or not summed <= set(terms[0]) & set(terms[1]):
        raise NoRule("an einsum that does not sum over one index of both operands")
    return _contraction(context, node, items, terms, summed.pop(), target)


def _contraction(context: Context, node: Node, items: list[Item], terms: list[str], summed: str, target: str) -> Item:
    """The sum over index `summed` of two operands with indices `terms`, in the order of `target`."""
    for i in (0, 1):
        if _is_weight(context, items[i]) and isinstance(items[1 - i], Ref):
            kept = terms[1 - i].replace(summed, "")
            rows = _arranged(context, items[1 - i], terms[1 - i], kept + summed)
            layout = "linear" if terms[i].index(summed) == 1 else "matmul"
            made = project(context, node, context.regular(rows), items[i], None, layout)
            return _arranged(context, made, kept + terms[i].replace(summed, ""), target)
    shared = "".join(c for c in terms[0] if c in terms[1] and c != summed)
    own = ["".join(c for c in term if c not in shared + summed) for term in terms]
    if own[1] == "" and isinstance(items[1], Value):  # with a vector: a matrix of one column
        column = context.dense_call(node.name, (*items[1].shape, 1), items[1].dtype, torch.unsqueeze, (items[1], -1))
        made = _contraction(context, node, [items[0], column], [terms[0], terms[1] + "_"], summed, target + "_")
        return Ref(made.value, made.dims[:-1])
    if len(own[0]) != 1 or len(own[1]) != 1:
        raise NoRule("an einsum that is no product of matrices")
    left = _arranged(context, items[0], terms[0], shared + own[0] + summed)
    right = _arranged(context, items[1], terms[1], shared + summed + own[1])
    return _arranged(context, product(context, node, left, right), shared + own[0] + own[1], target)


def _arranged(context: Context, item: Any, indices: str, target: str) -> Any:
    """An operand with its indices in the order of `target`."""
    if indices == target:
        return item
    if sorted(indices) != sorted(target):
        raise NoRule("an einsum whose result lacks an index")
    order = [indices.index(c) for c in target]
    return context.permuted(item, order) if isinstance(item, Value) else reorder(context, item, order)
