"""Random arguments for kernels, and the comparison of the native kernel with its reference."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from retouch.kernels import cpu
from retouch.kernels.protocol import Backend, handles
from retouch.kernels.registry import backend
from retouch.ops.specs import SPECS

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
    return handles(backend("cpu"), argument)


def native(name: str, out: Tensor, *args: Any) -> Tensor:
    """A copy of `out` after the native kernel."""
    return result_of(backend("cpu"), name, out, *args)


def result_of(kernels: Backend, name: str, out: Tensor, *args: Any) -> Tensor:
    """A copy of `out` after the kernel of a backend."""
    result = out.clone()
    kernels.kernel(name)(handles(kernels, result), *(handles(kernels, each) for each in args))
    return result


def expected(name: str, out: Tensor, *args: Any) -> Tensor:
    """A float32 (or float64) copy of `out` after the reference kernel, without rounding to 16 bits."""
    spec = SPECS[name]
    exact = not any(spec.tolerance.values()) or out.dtype == torch.float64
    result = out.clone() if exact else out.float()
    spec.reference(result, *args)
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
