"""Keys and values of attention, which every update reads whole: as rows, or computed again of what they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from retouch.ir.geometry import Grid
from retouch.ir.program import Op, Program
from retouch.ir.value import Value


@dataclass(frozen=True)
class Again:
    """`values` that are computed again of all rows of their `sources`, wherever they are read."""

    values: frozenset[Value] = frozenset()
    sources: frozenset[Value] = frozenset()


def keys_and_values(program: Program) -> tuple[Value, ...]:
    """Rows that attention reads whole, each once."""
    return tuple(dict.fromkeys(x for op in program.ops if op.attended for x in op.attended.rows))


def recomputed(program: Program, whole: frozenset[Grid]) -> Again:
    """The keys and values that linear layers make of fewer rows than they are, with what is between.

    Those of grids that are computed `whole` are not kept in any case.
    """
    producers = program.producers()
    values: set[Value] = set()
    sources: set[Value] = set()
    for op in program.ops:
        runs = [x for x in op.attended.rows if x.grid not in whole] if op.attended else []
        for grid in {x.grid for x in runs}:
            ends = {x for x in runs if x.grid == grid}
            made, read = made_of(ends, producers)
            wanted = sum(v.channels for v in ends & made)
            computed = sum(v.channels for v in made if producers[v].product)
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
        if op and op.product and op.product.linear:
            made.add(value)
            read.add(op.product.src)
        elif op and op.row_by_row:
            made.add(value)
            waiting += [v for v, _ in op.operands() if not _is_lifted(producers.get(v))]
        else:
            read.add(value)
    return made - read, read


def _is_lifted(op: Op | None) -> bool:
    """Whether its rows are those of a dense value, where they are."""
    return op is not None and op.in_place and not op.operands()
