"""Time tiles on the GPU at hand, to choose those of `tiles.py` (`retouch bench tiles` shows them).

Candidates that spill registers, need more shared memory than there is or multiply 16-bit numbers without tensor cores
are left out before anything is timed. One tile serves every shape: a row's value must not depend on how many rows are
active, so no tile may.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from statistics import geometric_mean
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.errors import OutOfResources

from retouch.errors import OptionError
from retouch.ir.geometry import IntArray
from retouch.kernels.protocol import BackendError
from retouch.kernels.tensors import Index
from retouch.kernels.triton import ahead, attention, gemm, tiles
from retouch.kernels.triton.handles import code_of
from retouch.ops.spec import EPILOGUE

Tile = tiles.Tile | tiles.AttentionTile
Report = Callable[[int, int, str], None]
"""Told how many candidates are done, of how many, and what is done with them."""
Timer = Callable[[Callable[[], Any]], float]

DTYPES = {2: (torch.float16, torch.bfloat16), 4: (torch.float32,)}
"""By bytes of a number, as the tables of tiles."""
DEVICE = torch.device("cuda")
SIDE = 128
"""Of the square image whose rows products read."""
SAMPLES, HEADS = 2, 8


@dataclass(frozen=True)
class Product:
    """A convolution (9 taps) or linear layer (one) of the first `rows` positions of an image."""

    taps: int
    channels: int
    rows: int

    def launch(self, dtype: torch.dtype, device: torch.device) -> Callable[[], Tensor]:
        """A function that runs it on random numbers and returns the output."""
        x, out = (torch.randn(SIDE**2, self.channels, dtype=dtype, device=device) for _ in range(2))
        weight = torch.randn(self.channels, self.taps, self.channels, dtype=dtype, device=device)
        bias = torch.randn(1, self.channels, device=device)
        here = np.arange(self.rows, dtype=np.int32)
        row = Index.of(here, device)
        index = row if self.taps == 1 else Index.of(_neighbours(here), device)
        packed = gemm.Packed.of(weight, 1)

        def run() -> Tensor:
            gemm.gemm(out, row, x, index, packed, code_of(EPILOGUE), [(x, row)], [bias], None)
            return out

        return run


@dataclass(frozen=True)
class Attention:
    """Attention of the first `queries` positions of each sample over all `keys` of it, in heads of `size` channels."""

    size: int
    queries: int
    keys: int

    def launches(self, dtype: torch.dtype, device: torch.device) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
        """The kernel, and PyTorch's attention of the queries that it gathers; each returns the output in rows."""
        width = HEADS * self.size
        q, k, v = (torch.randn(SAMPLES * self.keys, width, dtype=dtype, device=device) for _ in range(3))
        first = np.arange(SAMPLES)[:, None] * self.keys
        index = Index.of((first + np.arange(self.queries)).reshape(-1).astype(np.int32), device)
        bounds = Index.of((np.arange(SAMPLES + 1) * self.queries).astype(np.int32), device)
        out = torch.empty(SAMPLES * self.queries, width, dtype=dtype, device=device)

        def run() -> Tensor:
            attention.attention(out, None, q, index, [k], [v], HEADS, self.size**-0.5, bounds)
            return out

        def heads(x: Tensor) -> Tensor:
            return x.view(SAMPLES, -1, HEADS, self.size).transpose(1, 2)

        def sdpa() -> Tensor:
            made = scaled_dot_product_attention(heads(q.index_select(0, index)), heads(k), heads(v))
            return made.transpose(1, 2).reshape(-1, width)

        return run, sdpa

    def launch(self, dtype: torch.dtype, device: torch.device) -> Callable[[], Tensor]:
        """A function that runs it on random numbers and returns the output."""
        return self.launches(dtype, device)[0]


Shape = Product | Attention


@dataclass(frozen=True, eq=False)
class Kind:
    """A table of tiles: the kernel that uses it, candidates by bytes of a number, shapes to compile and to time."""

    table: str
    kernel: str
    candidates: Mapping[int, Sequence[Tile]]
    compiled: Sequence[Shape]
    timed: Sequence[Shape]

    @property
    def tiles(self) -> dict[str, dict[int, Any]]:
        found: dict[str, dict[int, Any]] = getattr(tiles, self.table)
        return found

    @property
    def used(self) -> dict[int, Any]:
        """The tiles in use, by bytes of a number."""
        return self.tiles.get(tiles.architecture(), self.tiles["other"])

    @contextmanager
    def using(self, tile: Tile, size: int) -> Iterator[None]:
        """Launch with `tile` for numbers of `size` bytes on the architecture in use; weights must be packed inside."""
        kept = dict(self.tiles)
        self.tiles[tiles.architecture()] = {**self.used, size: tile}
        try:
            yield
        finally:
            self.tiles.clear()
            self.tiles.update(kept)


_BLOCKS = (
    (32, 64, 4), (32, 128, 4), (64, 64, 4), (64, 128, 4), (64, 128, 8), (128, 64, 4), (128, 64, 8), (128, 128, 4),
    (128, 128, 8),
)  # fmt: skip
"""Rows, columns and warps."""
PRODUCTS = Kind(
    "TILES",
    "gemm_kernel",
    {
        2: [tiles.Tile(m, n, k, w, s) for (m, n, w), k, s in product(_BLOCKS, (32, 64), (2, 3, 5, 7))],
        4: [tiles.Tile(m, n, k, w, s) for (m, n, w), k, s in product(_BLOCKS, (16, 32), (2, 3))],
    },
    # A sum that is split, and one that is not and has its epilogue in the kernel.
    (Product(9, 640, 64), Product(1, 320, 64)),
    tuple(Product(*x) for x in product((9, 1), (320, 640, 1280), (64, 256, 1024, SIDE**2))),
)
ATTENTION = Kind(
    "ATTENTION_TILES",
    "attention_kernel",
    {
        2: [
            tiles.AttentionTile(m, s, k, v, w, stages)
            for m, s, k, v, w, stages in product((32, 64, 128), (32, 64, 128), (64, 128), (64, 128), (4, 8), (2, 3))
        ],
        4: [tiles.AttentionTile(m, s, 64, 64, w, 2) for m, s, w in product((16, 32, 64), (16, 32, 64), (4, 8))],
    },
    # Triton compiles head sizes apart that 16 divides and that it does not.
    (Attention(64, 64, 1024), Attention(40, 64, 1024)),
    tuple(Attention(*x) for x in product((40, 64, 80, 160), (64, 256), (1024, 4096))),
)
KINDS = PRODUCTS, ATTENTION


class Gpu(NamedTuple):
    """A GPU, and the bytes of shared memory that one block may have on it."""

    target: GPUTarget
    shared: int

    @property
    def name(self) -> str:
        """As in `tiles.TILES`."""
        return f"sm_{self.target.arch}" if self.target.backend == "cuda" else str(self.target.arch)


def named(name: str) -> Gpu:
    """The GPU of one of `ahead.TARGETS`; OptionError for another name."""
    if name not in ahead.TARGETS:
        raise OptionError(f"no tiles are known for {name!r}; choose from: {', '.join(ahead.TARGETS)}")
    return Gpu(ahead.TARGETS[name], 1024 * ahead.SHARED_LIMIT[name])


def present() -> Gpu:
    """The GPU in use; BackendError without one."""
    if not torch.cuda.is_available():
        raise BackendError("this needs a GPU of NVIDIA or AMD that PyTorch can use; only --list works without")
    current = driver.active
    properties = current.utils.get_device_properties(current.get_current_device())
    return Gpu(current.get_current_target(), properties["max_shared_mem"])


def runs_well(taken: ahead.Resources, size: int, shared: int) -> bool:
    """Whether a kernel for numbers of `size` bytes neither spills nor exceeds `shared`, nor misses tensor cores."""
    return not taken.spilled and taken.shared <= shared and (taken.matrix or size > 2)


def fits(kind: Kind, size: int, gpu: Gpu, tile: Tile) -> bool:
    """Whether all that is compiled with `tile` runs well."""

    def launch(shape: Shape, dtype: torch.dtype) -> None:
        with kind.using(tile, size):
            shape.launch(dtype, torch.device("meta"))()

    pairs = product(kind.compiled, DTYPES[size])
    found = ahead.compiled(gpu.target, ((f"{shape} {dtype}", partial(launch, shape, dtype)) for shape, dtype in pairs))
    return all(runs_well(x, size, gpu.shared) for name, x in found.items() if name.endswith(f" ({kind.kernel})"))


def fitting(kind: Kind, size: int, gpu: Gpu, report: Report = lambda *_: None) -> list[Tile]:
    """The candidates that run well on a GPU."""
    what = f"compiling {kind.table}, {size} bytes"
    return [tile for tile in _reported(kind.candidates[size], what, report) if fits(kind, size, gpu, tile)]


Case = tuple[Shape, torch.dtype]


def measure(
    kind: Kind,
    size: int,
    candidates: Sequence[Tile],
    timer: Timer,
    device: torch.device,
    report: Report = lambda *_: None,
) -> dict[Tile, dict[Case, float]]:
    """Milliseconds of every shape and dtype with every candidate, without those that the GPU refuses.

    Raises BackendError when it refuses all.
    """
    found: dict[Tile, dict[Case, float]] = {}
    for tile in _reported(candidates, f"timing {kind.table}, {size} bytes", report):
        with kind.using(tile, size):
            try:
                found[tile] = {
                    (shape, dtype): timer(shape.launch(dtype, device))
                    for shape, dtype in product(kind.timed, DTYPES[size])
                }
            except OutOfResources:
                continue
    if not found:
        raise BackendError(f"no candidate of {kind.table} for numbers of {size} bytes runs on this GPU")
    return found


def ranked(times: Mapping[Tile, Mapping[Case, float]]) -> list[tuple[Tile, float]]:
    """Tiles by the geometric mean of their times, each relative to the best time of the same case; the best first."""
    best = [min(case) for case in zip(*(x.values() for x in times.values()), strict=True)]
    scores = {
        tile: geometric_mean(time / least for time, least in zip(taken.values(), best, strict=True))
        for tile, taken in times.items()
    }
    return sorted(scores.items(), key=lambda x: x[1])


@dataclass(frozen=True)
class Tuned:
    """What was measured for a table of tiles and numbers of `size` bytes: milliseconds of every candidate in every
    case, and of PyTorch's attention where that is the kernel.
    """

    kind: Kind
    size: int
    times: Mapping[Tile, Mapping[Case, float]]
    sdpa: Mapping[Case, float]

    @property
    def ranked(self) -> list[tuple[Tile, float]]:
        """Candidates with their time over the best, the best first."""
        return ranked(self.times)


def tune(kind: Kind, size: int, gpu: Gpu, timer: Timer, report: Report = lambda *_: None) -> Tuned:
    """Compile and time all candidates. Raises BackendError when none runs."""
    times = measure(kind, size, fitting(kind, size, gpu, report), timer, DEVICE, report)
    cases = product(kind.timed, DTYPES[size])
    sdpa: dict[Case, float] = {
        (x, dtype): timer(x.launches(dtype, DEVICE)[1]) for x, dtype in cases if isinstance(x, Attention)
    }
    return Tuned(kind, size, times, sdpa)


def _reported(candidates: Sequence[Tile], what: str, report: Report) -> Iterator[Tile]:
    for place, tile in enumerate(candidates):
        report(place, len(candidates), what)
        yield tile


def source(tile: Tile) -> str:
    """As it is written in `tiles.py`."""
    return f"{type(tile).__name__}({', '.join(map(str, tile))})"


def line(name: str, chosen: Mapping[int, Tile]) -> str:
    """The line of a table in `tiles.py`."""
    return f'    "{name}": {{{", ".join(f"{size}: {source(tile)}" for size, tile in chosen.items())}}},'


def _neighbours(rows: IntArray) -> IntArray:
    """The 3 x 3 positions around each, -1 outside the image."""
    y, x = rows[:, None] // SIDE + np.repeat((-1, 0, 1), 3), rows[:, None] % SIDE + np.tile((-1, 0, 1), 3)
    inside = (y >= 0) & (y < SIDE) & (x >= 0) & (x < SIDE)
    return np.where(inside, y * SIDE + x, -1).astype(np.int32)
