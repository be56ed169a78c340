"""A program whose attention reads one of its inputs in several versions, each for the rows of one area."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from retouch.errors import RetouchError
from retouch.ir.program import Op, Program
from retouch.ir.value import Value
from retouch.ir.verify import verify
from retouch.ops.area_attention import AreaAttention
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
        if op.attended and keys.intersection(op.dense_operands()):
            ops.append(AreaAttention(op.out, (op, *(op.reading(op.out, twin) for twin in twins))))
            continue
        ops.append(op)
        if op.out in keys:
            for area, twin in enumerate(twins, 1):
                twin[op.out] = _twin(op.out, area)
                ops.append(op.reading(twin[op.out], twin))
    inputs = tuple(twin[source] for source in sources for twin in twins)
    found = replace(program, inputs=(*program.inputs, *inputs), ops=tuple(ops))
    return ByArea(replace(plan, program=verify(found, "areas")), inputs)


def _keys(program: Program, sources: Sequence[Value]) -> set[Value]:
    """The values between the inputs and the attentions that read them."""
    depends, read, names = set(sources), set[Value](), " and ".join(source.name for source in sources)
    for op in program.ops:
        reads = depends.intersection(op.dense_operands())
        if reads and op.host and not op.operands():
            depends.add(op.out)
        elif reads and op.attended:
            read |= reads
            if op.attended.mask and op.attended.mask.value not in depends:
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
