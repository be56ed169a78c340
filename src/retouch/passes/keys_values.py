"""Keys and values of attention, which every update reads whole: as rows, or computed again of what they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from retouch.ir.geometry import Grid
from retouch.ir.program import Op, Program
from retouch.ir.value import Value
from retouch.ops.attention import Attention
from retouch.ops.dense import Lift
from retouch.ops.gemm import Gemm
from retouch.ops.row_map import Concat, Map, Slice


@dataclass(frozen=True)
class Again:
    """`values` that are computed again of all rows of their `sources`, wherever they are read."""

    values: frozenset[Value] = frozenset()
    sources: frozenset[Value] = frozenset()


def keys_and_values(program: Program) -> tuple[Value, ...]:
    """Rows that attention reads whole, each once."""
    runs = [(*op.k, *op.v) for op in program.ops if isinstance(op, Attention)]
    return tuple(dict.fromkeys(x for each in runs for x in each if isinstance(x, Value)))


def recomputed(program: Program, whole: frozenset[Grid]) -> Again:
    """The keys and values that linear layers make of fewer rows than they are, with what is between.

    Those of grids that are computed `whole` are not kept in any case.
    """
    producers = program.producers()
    values: set[Value] = set()
    sources: set[Value] = set()
    for op in program.ops:
        if not isinstance(op, Attention):
            continue
        runs = [x for x in (*op.k, *op.v) if isinstance(x, Value) and x.grid not in whole]
        for grid in {x.grid for x in runs}:
            ends = {x for x in runs if x.grid == grid}
            made, read = made_of(ends, producers)
            wanted = sum(v.channels for v in ends & made)
            computed = sum(v.channels for v in made if isinstance(producers[v], Gemm))
            if computed <= wanted and sum(v.channels for v in read) < wanted:
                values |= made
                sources |= read
    return Again(frozenset(values - sources), frozenset(sources))


def made_of(ends: set[Value], producers: Mapping[Value, Op]) -> tuple[set[Value], set[Value]]:
    """What lies between `ends` and the inputs of the linear layers before them, ends included; these inputs."""
    made, read, waiting = set[Value](), set[Value](), list(ends)
    while waiting:
        value = waiting.pop()
        op = producers.get(value)
        if isinstance(op, Gemm) and op.geometry is None and not op.rows:
            made.add(value)
            read.add(op.src)
        elif isinstance(op, Map | Slice | Concat):
            made.add(value)
            waiting += [v for v, _ in op.operands() if not isinstance(producers.get(v), Lift)]
        else:
            read.add(value)
    return made - read, read
