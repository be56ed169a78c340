"""Operations and programs as immutable data, with a printer.

A value is either a matrix of rows, one row of `channels` numbers per position of a grid (batch outermost),
or a dense tensor without a grid (time embeddings, text, weights). An operation makes one value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from retouch.ir.emitter import Emitter
from retouch.ir.geometry import Grid
from retouch.ir.layout import Ref, image
from retouch.ir.meter import Meter
from retouch.ir.operands import Indexed, Operand, Slot
from retouch.ir.tables import Table
from retouch.ir.value import Matrix, Value, Weight
from retouch.ir.work import Rows


class Read(StrEnum):
    """How an operation reads a row operand; what is read beyond the active rows must be kept."""

    ACTIVE = "active"
    """The rows that it computes."""
    HALO = "halo"
    """Other rows too."""
    ALL = "all"
    """All rows."""
    BUFFER = "buffer"
    """All rows, as one matrix."""
    SUMS = "sums"
    """Channel sums of all rows, which an update may bring up to date from old and new active rows."""


@dataclass(frozen=True)
class Product:
    """What an operation multiplies: rows of `src` with `weight`. linear: each row of its own, and no other is read."""

    src: Value
    weight: Weight
    linear: bool


@dataclass(frozen=True)
class Attended:
    """What an operation attends to: all keys, then all values; a mask of them."""

    runs: tuple[Value | Matrix, ...]
    mask: Matrix | None

    @property
    def rows(self) -> tuple[Value, ...]:
        """Those that are rows."""
        return tuple(run for run in self.runs if isinstance(run, Value))


@dataclass(frozen=True, eq=False)
class Op:
    """Base of all operations; each lives in its own file under `retouch.ops`.

    What differs between operations is a trait or a method here, so that no other room tests their types.
    """

    out: Value

    kernels: ClassVar[tuple[str, ...]] = ()
    """Names of the kernels that compute it."""
    virtual: ClassVar[bool] = False
    """Evaluated on the rows that a consumer asks for, and nowhere by itself unless it is kept."""
    in_place: ClassVar[bool] = False
    """Never computed: `resolve` finds its rows where they are."""
    host: ClassVar[bool] = False
    """Run by PyTorch on whole tensors: `run`."""
    whole_map: ClassVar[bool] = False
    """Reads a whole map, so that an edit moves the result everywhere."""

    # What it reads

    def operands(self) -> tuple[tuple[Value, Read], ...]:
        """Row operands with the way they are read."""
        raise NotImplementedError

    def dense_operands(self) -> tuple[Value, ...]:
        """Operands without a grid."""
        return ()

    def inputs(self) -> tuple[Value, ...]:
        """All operands."""
        return (*(v for v, _ in self.operands()), *self.dense_operands())

    def weights(self) -> tuple[Slot, ...]:
        """Slots of packed weights that its kernel reads."""
        return ()

    def pieces(self) -> tuple[Value, ...]:
        """The values whose channels stand side by side in `out`, if they do."""
        return ()

    def place(self) -> tuple[Value, int]:
        """The value that holds the rows of `out`, and the first channel there."""
        return self.out, 0

    @property
    def row_by_row(self) -> bool:
        """True for a virtual value of which each row is made of the same rows of operands alone."""
        return self.virtual and {how for _, how in self.operands()} == {Read.ACTIVE}

    @property
    def product(self) -> Product | None:
        """What it multiplies; None: it is no product, or one that is as it is (see `in_int8`, `piece`)."""
        return None

    @property
    def attended(self) -> Attended | None:
        """What it attends to; None: it is no attention."""
        return None

    @property
    def keeps_halo(self) -> bool:
        """True for a virtual value of which a halo is better kept than evaluated by every consumer."""
        return False

    # What an update computes

    def changed(self, masks: dict[Value, Any]) -> Any:
        """Changed output positions bool `[B, H, W]` (numpy) from those of the operands: the `exact` region rule."""
        raise NotImplementedError

    def is_due(self, active: Mapping[Value, Table]) -> bool:
        """True when an update with these active rows has something to compute here."""
        return len(active[self.out]) > 0

    # Calls

    def emit(self, emitter: Emitter) -> None:
        """Append the kernel calls that compute `out` on its active rows."""
        self.evaluate(emitter, emitter.active(self.out), *emitter.target(self.out))

    def resolve(self, emitter: Emitter, rows: Table) -> Indexed:
        """Where rows of an output are that is virtual: computed, unless they are in place."""
        return emitter.evaluated(self.out, rows)

    def evaluate(self, emitter: Emitter, rows: Table, out: Operand, out_index: Table | None) -> None:
        """Append the calls that compute rows of a virtual output."""
        raise NotImplementedError

    def run(self, tensors: list[Any]) -> Any:
        """The result of an operation on the host; of the tensors of its operands, in their order."""
        raise NotImplementedError

    @property
    def repeats(self) -> bool:
        """False for an operation that draws random numbers: it gives something else every time."""
        return True

    # In other ways

    def reading(self, out: Value, others: Mapping[Value, Value]) -> Op:
        """The same operation of other dense operands, where there are some, as `out`."""
        raise NotImplementedError

    def in_int8(self) -> Op:
        """A product with rows and weights in int8."""
        raise NotImplementedError

    def piece(self, out: Value, weight: Weight, start: int) -> Op:
        """A product for the channels of `out`, from `start` on; `weight` is that part of its own."""
        raise NotImplementedError

    # Fusion

    def merge(self, producer: Op) -> Op | None:
        """This operation with that of an operand, which nobody else reads, evaluated within; None: it cannot be."""
        return None

    def read_through(self, producer: Op) -> Op | None:
        """This operation reading what the producer of an operand moves; None: it cannot."""
        return None

    def finish(self, consumer: Op) -> Op | None:
        """This operation with its only consumer as epilogue; None: it cannot be."""
        return None

    # Cost

    def work(self, meter: Meter) -> None:
        """Tell the kernel launches that `emit` makes, without making index tables."""
        self.evaluation(meter, meter.active(self.out))

    def evaluation(self, meter: Meter, rows: Rows) -> None:
        """Tell the launches that evaluate `rows` of a virtual output."""
        raise NotImplementedError

    def read_in_place(self, meter: Meter, rows: Rows) -> int | None:
        """Bytes to read `rows` of an output that is never computed; None when it is evaluated."""
        return None

    # Reports

    def macs_per_row(self) -> int:
        """Multiply-accumulates for one output row."""
        return 0

    def arithmetic(self, rows: int) -> int:
        """Multiply-accumulates for some output rows."""
        return self.macs_per_row() * rows

    @property
    def effort(self) -> int:
        """Multiply-accumulates that take PyTorch about as long, for what it computes."""
        return 0

    @property
    def reason(self) -> str:
        """Why it runs densely although operands are rows; empty for every other operation."""
        return ""

    def describe(self) -> str:
        """What the operation is, beside its operands."""
        return type(self).__name__.lower()


@dataclass(frozen=True, eq=False)
class Output:
    """One flat output of the module: rows in a layout, a dense value, or a constant of the graph."""

    value: Value | None
    ref: Ref | None = None
    constant: Any = None


@dataclass(frozen=True, eq=False)
class Program:
    """A list of operations in execution order.

    `inputs` are the values fed from outside, `constants` name the module's parameters and buffers,
    `outputs` follow the captured graph's flat outputs: a value, with its layout
    when it has a grid, or a constant. `layouts` are those of inputs with a grid that are no images.
    """

    inputs: tuple[Value, ...]
    constants: dict[Value, str]
    ops: tuple[Op, ...]
    outputs: tuple[Output, ...]
    layouts: Mapping[Value, Ref] = field(default_factory=dict)

    def layout(self, value: Value) -> Ref:
        """How an input with a grid is rows."""
        return self.layouts.get(value) or image(value)

    def producers(self) -> dict[Value, Op]:
        return {op.out: op for op in self.ops}

    def consumers(self) -> dict[Value, list[Op]]:
        uses: dict[Value, list[Op]] = {}
        for op in self.ops:
            for value in dict.fromkeys(op.inputs()):
                uses.setdefault(value, []).append(op)
        return uses

    def grids(self) -> list[Grid]:
        """Grids of the program, the largest first."""
        found = {v.grid for v in self.values() if v.grid}
        return sorted(found, key=lambda g: -g.size)

    def values(self) -> Iterator[Value]:
        yield from self.inputs
        for op in self.ops:
            yield op.out

    def __str__(self) -> str:
        lines = [f"input {v}" for v in self.inputs]
        for op in self.ops:
            names = ", ".join(f"%{v.name}" for v in op.inputs())
            lines.append(f"{op.out} = {op.describe()}({names})")
        return "\n".join([*lines, "return " + ", ".join(f"%{o.value.name}" for o in self.outputs if o.value)])
