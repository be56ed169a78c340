"""A program whose attention reads one of its inputs in several versions, each for the rows of one area."""

from __future__ import annotations

from collections.abc import Sequence
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


def by_area(plan: Plan, sources: Sequence[Value], count: int) -> ByArea:
    """The planned program with `count` more versions of inputs without a grid, for as many areas.

    Keys, values and masks of attention that are computed of the inputs are computed of every version, and attention
    over them becomes attention by area. What else reads the inputs, a pooled text in a time embedding for example,
    reads the ones of all other rows; rows, and all values that there were, are the same.

    Raises AreaError when nothing attends to the inputs, and when keys and their masks are not computed of them alone.
    """
    program = plan.program
    keys = _keys(program, sources)
    twins: list[dict[Value, Value]] = [{x: _twin(x, area) for x in sources} for area in range(1, count + 1)]
    ops: list[Op] = []
    for op in program.ops:
        if isinstance(op, Attention) and keys.intersection(op.dense_operands()):
            ops.append(AreaAttention(op.out, (op, *(_reading(op, twin) for twin in twins))))
            continue
        ops.append(op)
        if op.out in keys:
            assert isinstance(op, Dense)
            ops += [_copied(op, area, twin) for area, twin in enumerate(twins, 1)]
    inputs = tuple(twin[source] for source in sources for twin in twins)
    found = replace(program, inputs=(*program.inputs, *inputs), ops=tuple(ops))
    return ByArea(replace(plan, program=verify(found, "areas")), inputs)


def _keys(program: Program, sources: Sequence[Value]) -> set[Value]:
    """The values between the inputs and the attentions that read them."""
    depends, read, names = set(sources), set[Value](), " and ".join(source.name for source in sources)
    for op in program.ops:
        reads = depends.intersection(op.dense_operands())
        if reads and isinstance(op, Dense) and not op.operands():
            depends.add(op.out)
        elif reads and isinstance(op, Attention):
            read |= reads
            if op.bias and op.bias.value not in depends:
                raise AreaError(f"{op.out.name} ({op.describe()}) has a mask that is not computed of {names}")
    if not read:
        raise AreaError(f"nothing attends to {names}, so areas cannot have it in versions of their own")
    others = {*program.producers(), *program.inputs} - depends
    for op in reversed(program.ops):
        if op.out in read:
            read |= depends.intersection(op.dense_operands())
            if others.intersection(op.dense_operands()):
                raise AreaError(f"{op.out.name} ({op.describe()}) is not computed of {names} alone")
    return read


def _twin(value: Value, area: int) -> Value:
    return replace(value, name=f"{value.name}_area{area}")


def _copied(op: Dense, area: int, twin: dict[Value, Value]) -> Dense:
    twin[op.out] = _twin(op.out, area)
    sources = tuple(twin.get(source, source) if isinstance(source, Value) else source for source in op.sources)
    return replace(op, out=twin[op.out], sources=sources)


def _reading(op: Attention, twin: dict[Value, Value]) -> Attention:
    def run(keys: Value | Matrix) -> Value | Matrix:
        return of(keys) if isinstance(keys, Matrix) else keys

    def of(matrix: Matrix) -> Matrix:
        return replace(matrix, value=twin.get(matrix.value, matrix.value))

    return replace(op, k=tuple(map(run, op.k)), v=tuple(map(run, op.v)), bias=of(op.bias) if op.bias else None)
