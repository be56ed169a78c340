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
from retouch.ops.gemm import Gemm
from retouch.ops.row_map import Slice
from retouch.passes.keys_values import keys_and_values, made_of


def cut(program: Program) -> Program:
    """With products apart that make keys or values together with queries, or with the perceptron beside attention.

    Every update reads keys and values whole, so they are kept, or computed again: the rest of such a product need not.
    """
    producers, readers = program.producers(), program.consumers()
    bounds: dict[Value, set[int]] = {}
    for value in made_of(set(keys_and_values(program)), producers)[0]:
        part = producers[value]
        if isinstance(part, Slice) and _is_linear(producers.get(part.src)):
            bounds.setdefault(part.src, {0, part.src.channels}).update((part.start, part.start + value.channels))
    returned = {output.value for output in program.outputs}
    bounds = {v: at for v, at in bounds.items() if v not in returned and all(_is_within(op, at) for op in readers[v])}
    weights: dict[tuple[Weight, int], Weight] = {}
    pieces: dict[Value, dict[int, Value]] = {}
    made: list[Op] = []
    for op in program.ops:
        if isinstance(op, Slice) and op.src in pieces:
            start = max(at for at in pieces[op.src] if at <= op.start)
            made.append(replace(op, src=pieces[op.src][start], start=op.start - start))
        elif isinstance(op, Gemm) and op.out in bounds:
            of = pieces[op.out] = {}
            for start, stop in pairwise(sorted(bounds[op.out])):
                made += _piece(op, start, stop - start, weights)
                of[start] = made[-1].out
        else:
            made.append(op)
    return verify(replace(program, ops=tuple(made)), "cut")


def _is_linear(op: Op | None) -> bool:
    return isinstance(op, Gemm) and op.weight.layout in ("linear", "matmul")


def _is_within(op: Op, bounds: set[int]) -> bool:
    """Whether an operation reads channels of one piece alone."""
    return isinstance(op, Slice) and not any(op.start < at < op.start + op.out.channels for at in bounds)


def _piece(op: Gemm, start: int, channels: int, weights: dict[tuple[Weight, int], Weight]) -> Iterator[Op]:
    """The product for some of its channels, after its weights where these are not among the known ones."""
    known = op.weight, start
    if known not in weights:
        value, axis = op.weight.value, 1 if op.weight.layout == "matmul" else 0
        shape = tuple(channels if i == axis else n for i, n in enumerate(value.shape))
        part = Value(f"{value.name}.{start}", shape, value.dtype)
        yield Dense(part, torch.narrow, (Arg(0), axis, start, channels), {}, (value,), None)
        weights[known] = replace(op.weight, value=part)
    out = replace(op.out, name=f"{op.out.name}.{start}", channels=channels)
    yield replace(op, out=out, weight=weights[known], vectors=tuple(v.columns(start, channels) for v in op.vectors))
