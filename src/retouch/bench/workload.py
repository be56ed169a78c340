"""What a run of a network has to do, kernel call by kernel call: arithmetic and bytes. Nothing is computed.

The network is built on the meta device, without weights; its schedules are made for a backend whose handles
only say how large things are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from retouch.frontend.capture import capture
from retouch.frontend.lowering import lower
from retouch.frontend.signature import Signature
from retouch.ir.expr import Expr
from retouch.ir.layout import Ref
from retouch.ir.operands import Slot
from retouch.ir.program import Program, Value
from retouch.ir.tables import Table
from retouch.kernels import Backend
from retouch.kernels.devices import moved
from retouch.models import Inputs, Network
from retouch.ops.dense import Dense
from retouch.passes import Plan, fuse
from retouch.plan import activity
from retouch.plan.policy import Policy
from retouch.plan.region import Region
from retouch.runtime.calls import Call
from retouch.runtime.emitter import build, dirty_values
from retouch.runtime.schedule import Schedule
from retouch.runtime.shared import Shared
from retouch.runtime.weights import Weights

Index = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Work:
    """One kernel launch: `count` products of `[rows, depth]` and `[depth, columns]`, and the bytes it moves.

    Every distinct row is read or written once.
    """

    kernel: str
    nbytes: int
    rows: int = 0
    columns: int = 0
    depth: int = 0
    count: int = 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return self.count * self.rows * self.columns * self.depth


@dataclass(frozen=True)
class Rows:
    """Handle of a row matrix."""

    count: int
    channels: int
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return self.count * self.channels * self.dtype.itemsize


class Sizes:
    """A backend that computes nothing: kernels are their names, handles are sizes."""

    name = "sizes"
    device = torch.device("cpu")
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    sums_dtype = torch.float64

    def kernel(self, name: str) -> str:
        return name

    def empty(self, rows: int, channels: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(rows, channels, dtype=dtype, device="meta")

    def rows(self, tensor: Tensor) -> Rows:
        count, channels = tensor.shape
        return Rows(count, channels, tensor.dtype)

    def columns(self, rows: Rows, start: int, channels: int) -> Rows:
        return replace(rows, channels=channels)

    def index(self, array: Index) -> Index:
        return array

    def program(self, expr: Expr) -> Expr:
        return expr

    def arena(self, nbytes: int) -> Callable[[int, int, int, torch.dtype], Rows]:
        return lambda offset, rows, channels, dtype: Rows(rows, channels, dtype)


# Programs


def lowered(network: Network, image: tuple[int, int], tiny: bool, dtype: torch.dtype) -> Program:
    """The program of a network for pixels `image` (H, W), without its weights."""
    with torch.device("meta"):
        module = nn.Module.to(network.make_module(tiny).eval().requires_grad_(False), dtype)
    inputs = _resized(network.inputs(tiny, dtype), network.image_size(tiny), image)
    example = moved((inputs.args, dict(inputs.kwargs)), "meta")
    captured = capture(module, *Signature(module, *example).example)
    program = fuse(lower(captured, Sizes.dtypes))
    return Weights(module, captured, program, _sizes()).without_folded(program)


def _sizes() -> Backend:
    return cast(Backend, Sizes())


def _resized(inputs: Inputs, old: tuple[int, int], new: tuple[int, int]) -> Inputs:
    """The inputs with a blank image, or latent, for other pixels."""
    shape = inputs.args[0].shape
    sides = [side * after // before for side, before, after in zip(shape[2:], old, new, strict=True)]
    return inputs.with_image(inputs.args[0].new_zeros((*shape[:2], *sides)))


# Runs


def dense_work(planned: Plan, policy: Policy) -> list[Work]:
    """The work of a run that computes everything."""
    active = activity.everything(planned.program)
    return _work(_schedule(planned, active, policy, set(planned.program.inputs)))


@dataclass(frozen=True)
class Update:
    """The work of an update, with the copies that make it undoable.

    `read` are the bytes of a recording that it reads: rows near the edit, keys and values.
    """

    work: Sequence[Work]
    read: int


def update_work(planned: Plan, policy: Policy, region: Region) -> Update:
    """The update for a region; a dense run where most would be computed."""
    active = activity.of_update(planned.program, region, policy)
    if activity.share(planned.program, active) >= policy.crossover:
        return Update(dense_work(planned, policy), 0)
    schedule = _schedule(planned, active, policy, set())
    read = sum(len(rows) * value.channels * value.dtype.itemsize for value, rows in schedule.needs.items())
    return Update([_saves(schedule), *_work(schedule)], read)


def _schedule(planned: Plan, active: dict[Value, Table], policy: Policy, changed: set[Value]) -> Schedule:
    dirty = dirty_values(planned.program, changed, active)
    return build(planned, active, Shared(_sizes()), activity.statistics_of(planned.program, policy), dirty)


def _saves(schedule: Schedule) -> Work:
    """The rows that are saved, in one launch."""
    return Work("copy_many", sum(_copied(value, len(schedule.active[value])) for value in schedule.saves))


def _copied(value: Value, count: int) -> int:
    """Bytes that a copy of some rows reads and writes."""
    return 2 * count * value.channels * value.dtype.itemsize


def _work(schedule: Schedule) -> list[Work]:
    distinct = Distinct()
    return [_host(call) if call.host else _launch(call, schedule, distinct) for call in schedule.calls]


# Calls


class Distinct:
    """Number of distinct rows that an index names; each index is looked at once."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def __call__(self, index: Index) -> int:
        if id(index) not in self._counts:
            used = np.zeros(int(index.max(initial=-1)) + 2, np.bool_)
            used[index] = True  # -1, a row of zeros, marks the last one
            self._counts[id(index)] = int(used[:-1].sum())
        return self._counts[id(index)]


def _launch(call: Call, schedule: Schedule, distinct: Distinct) -> Work:
    kernel, args = str(call.function), call.args
    return Work(kernel, _moved(args, schedule, distinct), **_product(kernel, args, schedule))


def _moved(args: Sequence[Any], schedule: Schedule, distinct: Distinct) -> int:
    """Bytes of a call: an index after a handle says which of its rows."""
    flat = [*_flat(args), None]
    total = 0
    for argument, following in pairwise(flat):
        if isinstance(argument, np.ndarray):
            total += argument.nbytes
        elif isinstance(argument, Rows | Slot):
            rows = _rows(argument, schedule)
            named = distinct(following) if isinstance(following, np.ndarray) else rows.count
            total += replace(rows, count=named).nbytes
    return total


def _flat(args: Sequence[Any]) -> Iterator[Any]:
    for argument in args:
        if isinstance(argument, list | tuple):
            yield from _flat(argument)
        else:
            yield argument


def _rows(handle: Rows | Slot, schedule: Schedule) -> Rows:
    """How large what a handle stands for is."""
    if isinstance(handle, Rows):
        return handle
    key = handle.key
    if handle.kind == "kept":
        return Rows(key.rows, handle.channels, key.dtype)
    if handle.kind == "saved":
        return Rows(len(schedule.active[key]), handle.channels, key.dtype)
    if handle.kind == "matrix":
        return Rows(key.shape[0], key.channels, key.dtype)
    if handle.kind == "sums":
        return Rows(key.batch, 2 * key.channels, Sizes.sums_dtype)
    value = key if handle.kind == "folded" else key.value
    return Rows(1, math.prod(value.shape), value.dtype)


def _product(kernel: str, args: Sequence[Any], schedule: Schedule) -> dict[str, int]:
    """The matrix products of a call; every output row of a convolution uses every weight once."""
    if kernel not in ("gemm", "depthwise", "pool", "attention"):
        return {}
    out, index = _rows(args[0], schedule), args[1]
    rows = out.count if index is None else len(index)
    if kernel == "attention":
        keys, values, heads = _rows(args[4], schedule), _rows(args[5], schedule), args[6]
        length = keys.count // (len(args[8]) - 1)
        columns = (keys.channels + values.channels) // heads
        return {"rows": rows, "columns": columns, "depth": length, "count": heads}
    if kernel == "pool":
        return {"rows": rows, "columns": out.channels, "depth": args[4].channels if args[4] is not None else 0}
    weights = math.prod(args[4].key.value.shape)
    return {"rows": rows, "columns": out.channels, "depth": weights // out.channels}


def _host(call: Call) -> Work:
    """A function of the recording: a dense operation, or rows put back."""
    first, *others = call.args
    return _dense(first) if isinstance(first, Dense) else Work("copy_rows", _copied(first, len(others[0])))


def _dense(op: Dense) -> Work:
    sources = [source.value if isinstance(source, Ref) else source for source in op.sources]
    nbytes = sum(_size(value) for value in (*sources, op.out))
    columns = op.out.shape[-1] if op.out.shape else 1
    rows = math.prod(op.out.shape[:-1])
    return Work("dense", nbytes, rows, columns, op.macs // max(1, rows * columns))


def _size(value: Value) -> int:
    return value.nbytes if value.grid else math.prod(value.shape) * value.dtype.itemsize
