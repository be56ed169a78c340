"""What a kernel is, apart from how a backend computes it: one `KernelSpec` in the file of the op that calls it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from retouch.ir.expr import Expr, Instr

T = TypeVar("T")

CHANNELS = (1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 33, 48, 64, 65, 80, 100, 128, 147)
"""Around the widths of vectors, panels and tiles, and odd ones."""

FLOATS = (torch.float32, torch.bfloat16, torch.float16)

EPILOGUE: Expr = (Instr("acc"), Instr("vector"), Instr("add", 0, 1), Instr("rows"), Instr("add", 2, 3),
                  Instr("silu", 4))  # fmt: skip
"""A bias or time embedding, a residual and an activation."""

_EPILOGUES: tuple[Expr | None, ...] = (
    EPILOGUE,
    None,
    EPILOGUE[:3],
    EPILOGUE[:5],
    (*EPILOGUE[:3], Instr("vector", 1), Instr("mul", 2, 3)),
    (Instr("acc"), Instr("rows"), Instr("mul", 0, 1), Instr("const", imm=0.5), Instr("mul", 2, 3)),
)

Arguments = tuple[Any, ...]
"""As the reference takes them: row matrices and index tables are tensors, expressions `Expr`."""


class Draw:
    """The sizes and numbers of the arguments of a case.

    Without a seed sizes are those that networks have, and all numbers are zero: kernels are compiled for them. With
    one, sizes are small or odd and numbers normal, for comparison with the reference.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)

    def choice(self, usual: T, *others: T) -> T:
        """One of the values; without a seed `usual`."""
        return self._pick([usual, *others])

    def size(self, usual: int, *others: int) -> int:
        """A size: without a seed `usual`, else one of the others, if there are any."""
        return self._pick([usual, *others]) if self._generator is None or not others else self._pick(others)

    def _pick(self, options: Sequence[T]) -> T:
        if self._generator is None:
            return options[0]
        return options[int(torch.randint(len(options), (), generator=self._generator))]

    def matrix(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Numbers in a tensor without gaps."""
        if self._generator is None:
            return torch.zeros(shape, dtype=dtype)
        return torch.randn(shape, generator=self._generator).to(dtype)

    def rows(self, count: int, channels: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """`[count, channels]`, with a seed inside a matrix that may be wider."""
        return self.matrix(count, channels + self.choice(0, 1, 2), dtype=dtype)[:, :channels]

    def index(self, low: int, high: int, *shape: int) -> Tensor:
        """int32 entries in low .. high - 1; zeros without a seed."""
        if self._generator is None:
            return torch.zeros(shape, dtype=torch.int32)
        return torch.randint(low, high, shape, generator=self._generator, dtype=torch.int32)

    def distinct(self, count: int, total: int) -> Tensor:
        """`count` rows of `total` in order, int32."""
        if self._generator is None:
            return torch.arange(count, dtype=torch.int32)
        return torch.randperm(total, generator=self._generator)[:count].sort().values.int()

    def target(self, count: int, channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Rows that a kernel writes `count` of, and their index, or None for all of them."""
        if self.choice(True, False):
            return self.rows(count + 4, channels, dtype), self.distinct(count, count + 4)
        return self.rows(count, channels, dtype), None

    def output(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype of a result: that of the operands, or another one."""
        return self.choice(dtype, torch.bfloat16 if dtype == torch.float32 else torch.float32)

    def counts(self, longest: int) -> list[int]:
        """Rows of each sample, up to `longest`; without a seed two samples of 80 and 120."""
        if self._generator is None:
            return [80, 120]
        return [self.choice(0, 1, longest // 2, longest) for _ in range(self.choice(1, 2, 3))]

    def bounds(self, *counts: int) -> Tensor:
        """Where the rows of each sample begin and end: int32 `[B + 1]`."""
        return torch.tensor([0, *counts]).cumsum(0).int()

    def epilogue(self, count: int, channels: int, dtype: torch.dtype) -> Arguments:
        """Expression, row operands, vectors and samples of an epilogue."""
        expr = self.choice(*_EPILOGUES)
        read = [ins.op for ins in expr or ()]
        rows = [(self.rows(count + 3, channels, dtype), self.index(-1, count + 3, count))] * read.count("rows")
        samples = self.choice(2, 1)
        vectors = [self.rows(samples, self.choice(channels, 1)) for _ in range(read.count("vector"))]
        sample = self.index(0, 2, count).sort().values if samples > 1 and vectors else None
        return expr, rows, vectors, sample


@dataclass(frozen=True, eq=False)
class KernelSpec:
    """A kernel: what it computes, how its implementations are tried, and how far they may be off.

    name: as backends register it.
    formula: one line of text.
    reference: its definition in plain PyTorch, on any device; it stands in where a backend has none of its own.
    cases: functions that make arguments for the reference from a draw and the dtype of rows, by what they try. The
        first argument is what the kernel writes (`copy_many`: a list of calls).
    tolerance: by dtype of rows (of sums, where there are no rows), the largest error relative to the largest result,
        besides its rounding; 0: bit for bit.
    single: the reference for devices without float64, where it is another one.
    stores: it also takes what rows are stored in, in dtypes that a backend need not compute in.
    optional: a backend without it computes the same in another way, or does not offer what it is for.
    like: the kernel whose measured costs it is taken to have; empty: its own are measured (`runtime/timing.py`).
    """

    name: str
    formula: str
    reference: Callable[..., None]
    cases: Mapping[str, Callable[[Draw, torch.dtype], Arguments]]
    tolerance: Mapping[torch.dtype, float]
    single: Callable[..., None] | None = None
    stores: bool = False
    optional: bool = False
    like: str = ""

    def dtypes(self, computed: Sequence[torch.dtype]) -> list[torch.dtype]:
        """Those that a backend takes which computes in some dtypes."""
        return [x for x in self.tolerance if self.stores or x in computed or x == torch.float64]

    def on(self, sums_dtype: torch.dtype) -> Callable[..., None]:
        """The reference for channel sums of this dtype."""
        return self.reference if self.single is None or sums_dtype == torch.float64 else self.single


def within(bound: float, *dtypes: torch.dtype) -> dict[torch.dtype, float]:
    """The same tolerance for some dtypes."""
    return dict.fromkeys(dtypes, bound)
