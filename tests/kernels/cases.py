"""Random arguments for kernels, and the comparison of the native kernel with its reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from retouch.ir.expr import Instr
from retouch.kernels import cpu
from retouch.kernels.registry import backend

settings.register_profile("kernels", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("kernels")

ISAS = cpu.available_isas()
isas = st.sampled_from(ISAS)
dtypes = st.sampled_from([torch.float32, torch.bfloat16])
seeds = st.integers(0, 2**31 - 1)
threads = st.integers(1, 4)
# Around the widths of vectors, panels and blocks, and odd ones.
channels = st.sampled_from([1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 33, 48, 64, 65, 80, 100, 128, 147])


class Random:
    """Random tensors from one seed."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def rows(self, rows: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """`[rows, width]` inside a wider matrix, so that the row stride is not the width."""
        extra = int(torch.randint(0, 3, (1,), generator=self.generator))
        wide = torch.randn(rows, width + extra, generator=self.generator)
        return wide.to(dtype)[:, :width]

    def index(self, low: int, high: int, *shape: int) -> Tensor:
        """int32 entries in low .. high - 1."""
        return torch.randint(low, high, shape, generator=self.generator, dtype=torch.int32)

    def distinct(self, count: int, total: int) -> Tensor:
        """Sorted distinct rows, int32."""
        return torch.randperm(total, generator=self.generator)[:count].sort().values.int()


class on_isa:
    """Runs the native kernels on one instruction set and a number of threads."""

    def __init__(self, isa: str, count: int = 2) -> None:
        self.isa, self.count = isa, count

    def __enter__(self) -> None:
        self.before = cpu.isa(), cpu.num_threads()
        cpu.set_isa(self.isa)
        cpu.set_num_threads(self.count)

    def __exit__(self, *_: object) -> None:
        cpu.set_isa(self.before[0])
        cpu.set_num_threads(self.before[1])


def handle(argument: Any) -> Any:
    """The native form of an argument of a reference kernel."""
    if isinstance(argument, Tensor):
        return cpu.Index(argument) if argument.dtype == torch.int32 else cpu.Rows(argument)
    if isinstance(argument, list):
        return [handle(a) for a in argument]
    if isinstance(argument, tuple) and argument and isinstance(argument[0], Instr):
        return cpu.Program([(i.op, i.a, i.b, i.imm) for i in argument])
    if isinstance(argument, tuple) and len(argument) == 2 and isinstance(argument[1], int):
        return cpu.pack(*argument)
    if isinstance(argument, tuple):
        return tuple(handle(a) for a in argument)
    return argument


def native(name: str, out: Tensor, *args: Any) -> Tensor:
    """A copy of `out` after the native kernel."""
    result = out.clone()
    getattr(cpu, name)(handle(result), *map(handle, args))
    return result


def expected(name: str, out: Tensor, *args: Any) -> Tensor:
    """A float32 (or float64) copy of `out` after the reference kernel, without rounding to bfloat16."""
    exact = name == "copy_rows" or out.dtype == torch.float64
    result = out.clone() if exact else out.float()
    backend("reference").kernel(name)(result, *args)
    return result


def assert_close(got: Tensor, wanted: Tensor, bound: float, scale: float | None = None) -> None:
    """|got - wanted| <= bound * scale (default: the largest magnitude), plus the rounding of got's dtype."""
    size = max(float(wanted.abs().max()), 1e-30) if scale is None and wanted.numel() else scale or 1.0
    rounding = wanted.abs() * torch.finfo(got.dtype).eps / 2 if got.dtype.itemsize == 2 else 0.0
    error = (got.double() - wanted.double()).abs() - rounding
    assert got.shape == wanted.shape
    assert not torch.isnan(got).any() or torch.equal(torch.isnan(got), torch.isnan(wanted))
    assert error.numel() == 0 or float(error.nan_to_num(0.0).max()) <= bound * size


def check(name: str, out: Tensor, *args: Any, bound: float = 3e-6) -> Tensor:
    """Compare native and reference kernels; returns the native result."""
    result = native(name, out, *args)
    assert_close(result, expected(name, out, *args), bound)
    return result


def epilogue(kind: str, random: Random, m: int, width: int, dtype: torch.dtype) -> tuple[Any, ...]:
    """(program, rows, vectors, sample) of a common epilogue of `m` rows."""
    acc, vector, rows = Instr("acc"), Instr("vector", 0), Instr("rows", 0)
    samples = 2
    bias = random.rows(1, width)
    per_sample = random.rows(samples, width)
    sample = random.index(0, samples, m).sort().values
    residual = (random.rows(m + 3, width, dtype), random.index(-1, m + 3, m))
    if kind == "none":
        return None, [], [], None
    if kind == "bias":
        return (acc, vector, Instr("add", 0, 1)), [], [bias], None
    if kind == "bias_sample_act":
        program = (acc, vector, Instr("add", 0, 1), Instr("vector", 1), Instr("add", 2, 3), Instr("silu", 4))
        return program, [], [bias, per_sample], sample
    if kind == "residual":
        return (acc, vector, Instr("add", 0, 1), rows, Instr("add", 2, 3)), [residual], [bias], None
    assert kind == "gate"
    program = (acc, rows, Instr("mul", 0, 1), Instr("const", imm=0.5), Instr("mul", 2, 3))
    return program, [residual], [], None


EPILOGUES = ("none", "bias", "bias_sample_act", "residual", "gate")

Kernel = Callable[..., Any]
