"""A program whose attention reads one of its inputs in several versions, each for the rows of one area."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace

from retouch.errors import RetouchError
from retouch.ir.program import Op, Program
from retouch.ir.value import Matrix, Value
from retouch.ir.verify import verify
from retouch.ops.area_attention import AreaAttention
from retouch.ops.attention import Attention
from retouch.ops.dense import Dense


class AreaError(RetouchError, ValueError):
    """An input that rows read otherwise than as keys and values of attention, or that there is not."""


@dataclass(frozen=True, eq=False)
class ByArea:
    """A program by areas: `inputs` are the further versions of the input, `made` what is computed of them."""

    program: Program
    inputs: tuple[Value, ...]
    made: tuple[Dense, ...]

    @property
    def added(self) -> tuple[Value, ...]:
        """The values that the program has beside those that it was made from."""
        return (*self.inputs, *(op.out for op in self.made))

    def alone(self, constants: Container[Value]) -> bool:
        """Whether nothing but them and constants is read by what is computed of them."""
        added = set(self.added)
        return all(value in added or value in constants for op in self.made for value in op.dense_operands())


def by_area(program: Program, source: Value, count: int) -> ByArea:
    """The program with `count` more versions of an input without a grid, for as many areas.

    What is computed of the input is computed of every version, and attention over it becomes attention by
    area; rows, and all values that there were, are the same. Raises AreaError when rows read the input otherwise.
    """
    twins: list[dict[Value, Value]] = [{source: _twin(source, area)} for area in range(1, count + 1)]
    ops: list[Op] = []
    made: list[Dense] = []
    depends = {source}
    for op in program.ops:
        if not depends.intersection(op.dense_operands()):
            ops.append(op)
        elif isinstance(op, Dense) and not op.operands() and op.out.grid is None:
            depends.add(op.out)
            copies = [_copied(op, area, twin) for area, twin in enumerate(twins, 1)]
            ops += [op, *copies]
            made += copies
        elif isinstance(op, Attention):
            ops.append(AreaAttention(op.out, (op, *(_reading(op, twin) for twin in twins))))
        else:
            raise AreaError(
                f"{op.out.name} ({op.describe()}) reads {source.name}, which areas can have in versions of their own "
                "only where it is keys and values of attention"
            )
    inputs = tuple(twin[source] for twin in twins)
    found = replace(program, inputs=(*program.inputs, *inputs), ops=tuple(ops))
    return ByArea(verify(found, "areas"), inputs, tuple(made))


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
