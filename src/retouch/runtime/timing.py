"""Times a backend's kernels on a few shapes, and fits what their calls, arithmetic and bytes cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, cycle
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from retouch.ir.expr import Expr, Instr
from retouch.ir.geometry import Grid, conv_geometry
from retouch.ir.tables import Table
from retouch.ir.work import Work
from retouch.kernels import Backend
from retouch.ops.copy import spread
from retouch.ops.int8_gemm import Levels
from retouch.ops.specs import SPECS
from retouch.ops.sums import sums_width
from retouch.plan.cost import KERNELS, Rate, Rates, amounts, key
from retouch.runtime.threads import beside, thread_count

BUDGET = 0.02
"""Seconds in which a shape is timed again and again; the fastest call counts."""

LEAST = 4
"""Calls that are timed at least."""

COLD = 64 << 20
"""Bytes of rows, and of weights, through which kernels go before they see the same ones again: networks have more
than caches hold."""

WEIGHTS, ROWS = 12, 64
"""Different weights, and rows, of one call."""

BIASED: Expr = (Instr("acc"), Instr("vector", 0), Instr("add", 0, 1))
NORMED: Expr = (
    Instr("rows", 0), Instr("vector", 0), Instr("mul", 0, 1), Instr("vector", 1), Instr("add", 2, 3), Instr("silu", 4),
)  # fmt: skip
COPIED: Expr = (Instr("rows", 0),)

LAUNCH, MAKE, ENTRY, DENSE, FIXED = 12e-6, 30e-6, 12e-9, 40e-6, 1e-3
"""Seconds of Python that `Rates` names, on a machine that runs `_python` in `PYTHON` seconds."""

PYTHON = 1.2e-3


@dataclass(frozen=True)
class Case:
    """Calls that do the same work on different memory."""

    work: Work
    calls: Sequence[Callable[[], Any]]

    def seconds(self) -> float:
        """Of the fastest call but the first, which warms up: others may have been interrupted."""
        return _fastest(self.calls)


def _fastest(calls: Sequence[Callable[[], Any]]) -> float:
    calls[0]()
    best, begin = float("inf"), perf_counter()
    for done, call in enumerate(cycle([*calls[1:], calls[0]])):
        started = perf_counter()
        if done >= LEAST and started - begin > BUDGET:
            break
        call()
        best = min(best, perf_counter() - started)
    return best


def measure(backend: Backend) -> Rates:
    """The rates of a backend on the CPU with its present number of threads; takes a few seconds."""
    backend.set_threads(thread_count())
    kernels = {}
    with beside(backend):
        for dtype in backend.dtypes:
            shapes = Shapes(backend, dtype)
            for kernel in taking(dtype):
                timed = [(case.work, case.seconds()) for case in getattr(shapes, kernel)()]
                kernels[key(kernel, dtype)] = fitted(timed)
        result = _result()
    slower = _fastest([_python]) / PYTHON
    launch, make, entry, dense, fixed = (slower * cost for cost in (LAUNCH, MAKE, ENTRY, DENSE, FIXED))
    return Rates(kernels, launch, make, entry, dense, fixed, result)


def taking(dtype: torch.dtype) -> list[str]:
    """The kernels with costs of their own that take rows of a type."""
    return [name for name in KERNELS if name not in SPECS or SPECS[name].dtypes([dtype])]


def _result() -> float:
    """Seconds to return a byte of an image, in the layout of PyTorch."""
    rows = torch.full((1, 3, 512, 512), 0.5).contiguous(memory_format=torch.channels_last)
    return _fastest([lambda: rows.clone(memory_format=torch.contiguous_format)]) / (rows.numel() * rows.element_size())


def _python() -> list[tuple[Any, ...]]:
    """What running a schedule is made of: calls, look-ups and new tuples."""
    table = {(i, str(i)): i for i in range(64)}
    keys = list(table)
    return [tuple([table.get(k, 0) for k in keys[i % 48 : i % 48 + 12]]) for i in range(2000)]


def fitted(timed: Sequence[tuple[Work, float]]) -> Rate:
    """The costs, none of them negative, that come nearest to measured times by their ratio."""
    matrix = np.array([amounts(work) for work, _ in timed]) / np.array([[s] for _, s in timed])
    scale = matrix.max(axis=0)
    scale[scale == 0] = 1
    best: tuple[float, npt.NDArray[np.float64]] = (float("inf"), np.zeros(len(scale)))
    for size in range(1, len(scale) + 1):
        for used in combinations(range(len(scale)), size):
            part = matrix[:, used] / scale[list(used)]
            found = np.linalg.lstsq(part, np.ones(len(part)), rcond=None)[0]
            error = float(np.square(part @ found - 1).sum())
            if (found >= 0).all() and error < best[0] - 1e-12:
                costs = np.zeros(len(scale))
                costs[list(used)] = found
                best = error, costs
    return Rate(*(float(x) for x in best[1] / scale))


class Shapes:
    """Cases for each kernel, for rows of one type."""

    def __init__(self, backend: Backend, dtype: torch.dtype) -> None:
        self.backend, self.dtype, self.size = backend, dtype, dtype.itemsize
        self._memory = torch.full((COLD // self.size,), 0.5, dtype=dtype)
        self._used = 0

    def _filled(self, rows: int, channels: int, dtype: torch.dtype) -> Any:
        return self.backend.rows(torch.full((rows, channels), 0.5, dtype=dtype))

    def _rows(self, rows: int, channels: int) -> Any:
        """Rows that were not used for some time."""
        size = rows * channels
        start = self._used if self._used + size <= len(self._memory) else 0
        self._used = start + size
        return self.backend.rows(self._memory[start : start + size].view(rows, channels))

    def _some(self, rows: int, of: int) -> Any:
        """An ascending list of rows in short runs, as edits have them."""
        start = np.arange(0, of, max(2, 16 * of // rows))[: -(-rows // 16), None]
        return self._index(np.minimum(start + np.arange(16), of - 1).reshape(-1)[:rows])

    def _index(self, array: npt.NDArray[Any]) -> Any:
        return self.backend.index(np.ascontiguousarray(array, dtype=np.int32))

    def _taps(self, rows: int, taps: int) -> Any:
        if taps == 1:
            return None
        near = np.arange(rows)[:, None] + np.arange(taps) * 64
        return self._index(near % rows)

    def gemm(self) -> Iterator[Case]:
        return self._products("gemm", lambda weight: self.backend.pack(weight, 1), self._rows, self.size)

    def int8_gemm(self) -> Iterator[Case]:
        def levels(rows: int, channels: int) -> Any:
            return self.backend.rows(spread(torch.full((rows, channels), 0.5)))

        return self._products("int8_gemm", lambda weight: self.backend.pack_levels(Levels.of(weight, 1)), levels, 1)

    def _products(
        self, kernel: str, pack: Callable[[torch.Tensor], Any], source: Callable[[int, int], Any], size: int
    ) -> Iterator[Case]:
        """(rows, columns, channels, taps) of few and many rows, narrow and wide, one tap and nine; of rows and weights
        of so many bytes a number.
        """
        for rows, columns, channels, taps in (
            (8, 512, 512, 4), (32, 512, 512, 4), (128, 256, 128, 9), (256, 256, 256, 9), (2048, 64, 64, 9),
            (512, 128, 512, 1), (4096, 64, 64, 1), (4096, 64, 3, 9), (1024, 3, 64, 9), (4, 32, 32, 1),
        ):  # fmt: skip
            weight = torch.full((columns, taps, channels), 0.01, dtype=self.dtype)
            packed = [pack(weight) for _ in range(WEIGHTS if rows <= 32 else 1)]
            bias = [self._filled(1, columns, torch.float32)]
            tail: tuple[Any, ...] = self.backend.program(BIASED), [], bias, None
            call, index = self.backend.kernel(kernel), self._taps(rows, taps)
            out, a = self._rows(rows, columns), source(rows, channels)
            nbytes = self.size * rows * columns + size * (rows * channels + weight.numel())
            nbytes += 4 * rows * taps if taps > 1 else 0
            work = Work(kernel, self.dtype, nbytes, rows, columns, taps * channels, steps=len(BIASED))
            yield Case(work, [_bound(call, out, None, a, index, each, *tail) for each in packed])

    def winograd(self) -> Iterator[Case]:
        """Squares of rows, in tiles."""
        for side, columns, channels in ((4, 512, 512), (8, 512, 256), (16, 256, 256), (32, 128, 128), (64, 64, 64)):
            grid, steps = Grid(side, side), len(BIASED)
            rows, table = side * side, Table.all(side * side)
            weight = torch.full((columns, 9, channels), 0.01, dtype=self.dtype)
            packed = [self.backend.pack(weight, 1) for _ in range(WEIGHTS if rows <= 64 else 1)]
            taps = conv_geometry(grid, (3, 3), (1, 1), (1, 1), (1, 1)).rows(table.array)
            index, tiles = self._index(taps), self._index(table.tiles(grid).array)
            out, a = self._rows(rows, columns), self._rows(rows, channels)
            bias = [self._filled(1, columns, torch.float32)]
            tail: tuple[Any, ...] = self.backend.program(BIASED), [], bias, None, tiles
            nbytes = self.size * (rows * (columns + channels) + weight.numel()) + 40 * rows
            work = Work("winograd", self.dtype, nbytes, rows, columns, 9 * channels, steps=steps)
            call = self.backend.kernel("winograd")
            yield Case(work, [_bound(call, out, None, a, index, each, *tail) for each in packed])

    def dense(self) -> Iterator[Case]:
        """Linear layers of PyTorch, of a time step as of many rows."""
        for rows, columns, depth in ((1, 2048, 1024), (8, 512, 512), (512, 256, 256)):
            weights = [torch.full((columns, depth), 0.01, dtype=self.dtype) for _ in range(WEIGHTS if rows == 1 else 1)]
            a = torch.full((rows, depth), 0.5, dtype=self.dtype)
            nbytes = self.size * (rows * (columns + depth) + columns * depth)
            work = Work("dense", self.dtype, nbytes, rows, columns, depth if rows > 8 else 0)
            yield Case(work, [_bound(torch.nn.functional.linear, a, weight) for weight in weights])

    def depthwise(self) -> Iterator[Case]:
        for rows, channels in ((64, 64), (1024, 64), (1024, 256)):
            weight = self._filled(9, channels, torch.float32)
            out, a = (self._rows(rows, channels) for _ in range(2))
            nbytes = 2 * self.size * rows * channels + 4 * rows * 9 + 36 * channels
            work = Work("depthwise", self.dtype, nbytes, rows, channels, 9)
            call = self.backend.kernel("depthwise")
            yield Case(work, [_bound(call, out, None, a, self._taps(rows, 9), weight, None, [], [], None)])

    def pool(self) -> Iterator[Case]:
        for rows, channels in ((64, 64), (1024, 64), (1024, 256)):
            weights = self._filled(rows, 4, torch.float32)
            out, a = (self._rows(rows, channels) for _ in range(2))
            nbytes = 2 * self.size * rows * channels + 8 * rows * 4
            work = Work("pool", self.dtype, nbytes, rows, channels, 4)
            yield Case(work, [_bound(self.backend.kernel("pool"), out, None, a, self._taps(rows, 4), weights)])

    def attention(self) -> Iterator[Case]:
        for rows, length, heads, width in (
            (16, 1024, 8, 40), (256, 256, 8, 64), (256, 1024, 1, 256), (64, 77, 8, 40), (512, 512, 4, 64),
        ):  # fmt: skip
            q, out = (self._rows(rows, heads * width) for _ in range(2))
            k, v = (self._rows(length, heads * width) for _ in range(2))
            nbytes = 2 * self.size * (rows + length) * heads * width
            work = Work("attention", self.dtype, nbytes, rows, 2 * width, length, heads)
            bounds, call = self._index(np.array([0, rows])), self.backend.kernel("attention")
            yield Case(work, [_bound(call, out, None, q, None, [k], [v], heads, 0.1, bounds)])

    def row_map(self) -> Iterator[Case]:
        for rows, of, channels, expr in (
            (32, 512, 256, NORMED), (512, 2048, 256, NORMED), (4096, 8192, 128, NORMED), (8192, 16384, 64, NORMED),
            (512, 2048, 256, COPIED), (4096, 8192, 128, COPIED),
        ):  # fmt: skip
            program, index = self.backend.program(expr), self._some(rows, of)
            vectors = [self._filled(1, channels, torch.float32) for _ in range(2)] if expr is NORMED else []
            nbytes = 2 * self.size * rows * channels + 4 * rows + 4 * channels * len(vectors)
            work = Work("row_map", self.dtype, nbytes, rows, channels, steps=len(expr))
            pairs = [(self._rows(rows, channels), self._rows(of, channels)) for _ in range(ROWS)]
            call = self.backend.kernel("row_map")
            yield Case(work, [_bound(call, out, None, program, [(a, index)], vectors, None) for out, a in pairs])

    def copy_rows(self) -> Iterator[Case]:
        for rows, of, channels in ((16, 256, 256), (1024, 4096, 256), (8192, 8192, 128)):
            index = self._some(rows, of)
            nbytes = 2 * self.size * rows * channels + 4 * rows
            pairs = [(self._rows(rows, channels), self._rows(of, channels)) for _ in range(ROWS)]
            work = Work("copy_rows", self.dtype, nbytes, rows, channels)
            call = self.backend.kernel("copy_rows")
            yield Case(work, [_bound(call, out, None, a, index) for out, a in pairs])

    def channel_sums(self) -> Iterator[Case]:
        width = self.backend.sums_dtype
        for rows, channels in ((16, 64), (16, 512), (1024, 256), (4096, 128)):
            sums = self._filled(1, sums_width(channels, width), width)
            work = Work("channel_sums", self.dtype, self.size * rows * channels + 16 * channels, rows, channels)
            bounds = self._index(np.array([0, rows]))
            call, sources = self.backend.kernel("channel_sums"), [self._rows(rows, channels) for _ in range(ROWS)]
            yield Case(work, [_bound(call, sums, a, None, bounds, 1) for a in sources])


def _bound(function: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    return lambda: function(*args)
