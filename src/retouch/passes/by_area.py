"""A program whose attention reads one of its inputs in several versions, each for the rows of one area."""

from __future__ import annotations

from dataclasses import dataclass, replace

from retouch.errors import RetouchError
from retouch.ir.program import Op, Program
from retouch.ir.value import Matrix, Value
from retouch.ir.verify import verify
from retouch.ops.area_attention import AreaAttention
from retouch.ops.attention import Attention
from retouch.ops.dense import Dense
from retouch.passes.chains import Chain
from retouch.passes.storage import Plan


class AreaError(RetouchError, ValueError):
    """An input to which nothing attends, or to more than is made of it alone, or that there is not."""


@dataclass(frozen=True, eq=False)
class ByArea:
    """The plan of a program by areas; `inputs` are the further versions of the input."""

    plan: Plan
    inputs: tuple[Value, ...]

    @property
    def program(self) -> Program:
        """The program by areas."""
        return self.plan.program

    @property
    def chains(self) -> tuple[Chain, ...]:
        """What is computed of the further versions alone."""
        return tuple(chain for chain in self.plan.chains if not set(chain.inputs).isdisjoint(self.inputs))

    @property
    def added(self) -> tuple[Value, ...]:
        """The values that a run needs beside those of the program that it was made from."""
        return (*self.inputs, *(value for chain in self.chains for value in chain.results))


def by_area(plan: Plan, source: Value, count: int) -> ByArea:
    """The planned program with `count` more versions of an input without a grid, for as many areas.

    Keys and values of attention that are computed of the input are computed of every version, and attention over them
    becomes attention by area. What else reads the input, a pooled text in a time embedding for example, reads the one
    of all other rows; rows, and all values that there were, are the same.

    Raises AreaError when nothing attends to the input, and when keys are not computed of it alone.
    """
    program = plan.program
    keys = _keys(program, source)
    twins: list[dict[Value, Value]] = [{source: _twin(source, area)} for area in range(1, count + 1)]
    ops: list[Op] = []
    for op in program.ops:
        if isinstance(op, Attention) and keys.intersection(op.dense_operands()):
            ops.append(AreaAttention(op.out, (op, *(_reading(op, twin) for twin in twins))))
            continue
        ops.append(op)
        if op.out in keys:
            assert isinstance(op, Dense)
            ops += [_copied(op, area, twin) for area, twin in enumerate(twins, 1)]
    inputs = tuple(twin[source] for twin in twins)
    found = replace(program, inputs=(*program.inputs, *inputs), ops=tuple(ops))
    return ByArea(replace(plan, program=verify(found, "areas")), inputs)


def _keys(program: Program, source: Value) -> set[Value]:
    """The values between the input and the attentions that read it."""
    depends, read = {source}, set[Value]()
    for op in program.ops:
        reads = depends.intersection(op.dense_operands())
        if reads and isinstance(op, Dense) and not op.operands():
            depends.add(op.out)
        elif isinstance(op, Attention):
            read |= reads
    if not read:
        raise AreaError(f"nothing attends to {source.name}, so areas cannot have it in versions of their own")
    others = {*program.producers(), *program.inputs} - depends
    for op in reversed(program.ops):
        if op.out in read:
            read |= depends.intersection(op.dense_operands())
            if others.intersection(op.dense_operands()):
                raise AreaError(f"{op.out.name} ({op.describe()}) is not computed of {source.name} alone")
    return read


def _twin(value: Value, area: int) -> Value:
    return replace(value, name=f"{value.name}_area{area}")


def _copied(op: Dense, area: int, twin: dict[Value, Value]) -> Dense:
    twin[op.out] = _twin(op.out, area)
    sources = tuple(twin.get(source, source) if isinstance(source, Value) else source for source in op.sources)
    return replace(op, out=twin[op.out], sources=sources)


def _reading(op: Attention, twin: dict[Value, Value]) -> Attention:
    def run(keys: Value | Matrix) -> Value | Matrix:
        return replace(keys, value=twin.get(keys.value, keys.value)) if isinstance(keys, Matrix) else keys

    return replace(op, k=tuple(map(run, op.k)), v=tuple(map(run, op.v)))
