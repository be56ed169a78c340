"""Products of which keys or values of attention are a part, in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import torch

from retouch.ir.program import Op, Program
from retouch.ir.value import Value, Weight
from retouch.ir.verify import verify
from retouch.ops.dense import Arg, Dense
from retouch.ops.row_map import Slice
from retouch.passes.keys_values import keys_and_values, made_of


def cut(program: Program) -> Program:
    """With products apart that make keys or values together with queries, or with the perceptron beside attention.

    Every update reads keys and values whole, so they are kept, or computed again: the rest of such a product need not.
    """
    producers, readers = program.producers(), program.consumers()
    bounds: dict[Value, set[int]] = {}
    for value in made_of(set(keys_and_values(program)), producers)[0]:
        holder, start = producers[value].place()
        if holder != value and _is_linear(producers.get(holder)):
            bounds.setdefault(holder, {0, holder.channels}).update((start, start + value.channels))
    returned = {output.value for output in program.outputs}
    apart = {v for v, at in bounds.items() if all(_is_within(op, v, at) for op in readers[v])} - returned
    bounds = {v: at for v, at in bounds.items() if v in apart}
    weights: dict[tuple[Weight, int], Weight] = {}
    pieces: dict[Value, dict[int, Value]] = {}
    made: list[Op] = []
    for op in program.ops:
        holder, first = op.place()
        if holder in pieces:
            start = max(at for at in pieces[holder] if at <= first)
            made.append(Slice(op.out, pieces[holder][start], first - start))
        elif op.out in bounds:
            of = pieces[op.out] = {}
            for start, stop in pairwise(sorted(bounds[op.out])):
                made += _piece(op, start, stop - start, weights)
                of[start] = made[-1].out
        else:
            made.append(op)
    return verify(replace(program, ops=tuple(made)), "cut")


def _is_linear(op: Op | None) -> bool:
    return op is not None and op.product is not None and op.product.weight.layout in ("linear", "matmul")


def _is_within(op: Op, value: Value, bounds: set[int]) -> bool:
    """Whether an operation is channels of one piece of a value alone, in place."""
    holder, start = op.place()
    return holder == value and not any(start < at < start + op.out.channels for at in bounds)


def _piece(op: Op, start: int, channels: int, weights: dict[tuple[Weight, int], Weight]) -> Iterator[Op]:
    """The product for some of its channels, after its weights where these are not among the known ones."""
    assert op.product
    weight = op.product.weight
    known = weight, start
    if known not in weights:
        value, axis = weight.value, 1 if weight.layout == "matmul" else 0
        shape = tuple(channels if i == axis else n for i, n in enumerate(value.shape))
        part = Value(f"{value.name}.{start}", shape, value.dtype)
        yield Dense(part, torch.narrow, (Arg(0), axis, start, channels), {}, (value,), None)
        weights[known] = replace(weight, value=part)
    out = replace(op.out, name=f"{op.out.name}.{start}", channels=channels)
    yield op.piece(out, weights[known], start)
