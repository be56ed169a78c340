"""Dense operations that read no rows, together: what is computed of a text, of a time step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from retouch.ir.program import Op, Program
from retouch.ir.value import Value


@dataclass(frozen=True, eq=False)
class Chain:
    """Dense operations that depend on nothing but all of `inputs`, in order; `results` are what others read of them."""

    inputs: tuple[Value, ...]
    ops: tuple[Op, ...]
    results: tuple[Value, ...]

    @cached_property
    def effort(self) -> int:
        """Multiply-accumulates that take about as long."""
        return sum(op.effort for op in self.ops)

    def run(self, content: Callable[[Value], Any]) -> dict[Value, Any]:
        """The results; `content` gives values that the chain does not make."""
        made: dict[Value, Any] = {}
        for op in self.ops:
            made[op.out] = op.run([made[v] if v in made else content(v) for v in op.dense_operands()])
        return {value: made[value] for value in self.results}


def chains(program: Program) -> tuple[Chain, ...]:
    """The chains of a program, those that others read from before them.

    An operation that draws random numbers is in none, nor is what depends on it: it gives something else every time.
    """
    depends: dict[Value, frozenset[Value]] = {v: frozenset({v}) for v in program.inputs if v.grid is None}
    depends |= dict.fromkeys(program.constants, frozenset())
    found: dict[frozenset[Value], list[Op]] = {}
    for op in program.ops:
        alone = op.host and op.repeats and op.out.grid is None and not op.operands()
        if alone and depends.keys() >= set(op.dense_operands()):
            inputs = frozenset[Value]().union(*(depends[v] for v in op.dense_operands()))
            if inputs:
                depends[op.out] = inputs
                found.setdefault(inputs, []).append(op)
    order = {value: i for i, value in enumerate(program.inputs)}
    readers, returned = program.consumers(), {output.value for output in program.outputs}

    def chain(inputs: frozenset[Value]) -> Chain:
        ops = found[inputs]
        inside: set[Op] = set(ops)
        read = [op.out for op in ops if op.out in returned or not inside.issuperset(readers.get(op.out, ()))]
        return Chain(tuple(sorted(inputs, key=order.__getitem__)), tuple(ops), tuple(read))

    return tuple(chain(inputs) for inputs in sorted(found, key=len))
