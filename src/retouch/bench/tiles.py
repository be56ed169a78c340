"""Tiles of Triton's kernels, timed on the GPU at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any, ClassVar

from rich.table import Table
from triton.testing import do_bench

from retouch.bench import machine, options
from retouch.bench.harness import Progress, Suite
from retouch.bench.report import Column, Result, terminal_table
from retouch.kernels.triton import tune
from retouch.kernels.triton.tune import Gpu, Tuned, line, source

SHOWN = 5
"""Candidates in a table, the best ones."""

RANKING = Column("tile", "tile"), Column("score", "time over best", "{:.3f}".format, none="left out")
LIBRARY = (
    Column("dtype", "dtype"),
    Column("size", "head"),
    Column("queries", "queries"),
    Column("keys", "keys"),
    Column("ms", "kernel", "{:.3f}".format),
    Column("sdpa", "SDPA", "{:.3f}".format),
)


def _median(call: Callable[[], Any]) -> float:
    """Milliseconds of a call on the GPU."""
    return float(do_bench(call, return_mode="median"))


@dataclass(frozen=True)
class Tiles(options.Tiles, Suite):
    """tuned, listed: what was found, and candidates that were asked for."""

    tuned: list[Tuned] = field(default_factory=list)
    listed: list[str] = field(default_factory=list)

    columns: ClassVar[Sequence[Column]] = ()

    def check(self) -> None:
        self.gpu()

    def gpu(self) -> Gpu:
        """The one whose candidates are asked for, or the one at hand. Raises OptionError, BackendError."""
        return tune.named(self.architecture) if self.architecture else tune.present()

    def measure(self, progress: Progress) -> Iterator[Result]:
        """Every shape and type with every candidate, and with PyTorch's attention; of another GPU the candidates."""
        for (kind, size), part in progress.over(list(product(tune.KINDS, tune.DTYPES))):
            if self.architecture:
                kept = tune.fitting(kind, size, self.gpu(), part.steps)
                title = f"{kind.table}, {size} bytes, {self.architecture}"
                self.listed.append(f"{title}: {len(kept)} of {len(kind.candidates[size])}")
                self.listed.extend(f"    {source(tile)}" for tile in kept)
            else:
                yield from self._timed(kind, size, part)

    def _timed(self, kind: tune.Kind, size: int, progress: Progress) -> Iterator[Result]:
        (_, compiling), (_, timing) = progress.over(("compile", "time"))

        def report(done: int, total: int, text: str) -> None:
            (timing if text.startswith("timing") else compiling).steps(done, total, text)

        found, here = tune.tune(kind, size, self.gpu(), _median, report), machine.facts("cuda")
        self.tuned.append(found)
        kernels = [(kind.kernel, tile, times) for tile, times in found.times.items()]
        for kernel, tile, times in [*kernels, ("sdpa", None, found.sdpa)]:
            for (shape, dtype), ms in times.items():
                facts = {"dtype": str(dtype), "tile": tile and tile._asdict(), "ms": ms, "machine": here}
                yield {"kernel": kernel, **asdict(shape), **facts}

    def tables(self, results: Sequence[Result]) -> list[Table]:
        """The best candidates of each table and the tile in use; attention beside PyTorch's."""
        found = []
        for each in self.tuned:
            found.append(terminal_table(f"{each.kind.table}, {each.size} bytes", "", RANKING, _ranking(each)))
            if each.sdpa:
                found.append(terminal_table("Attention, and PyTorch's (medians, ms)", "", LIBRARY, _beside(each)))
        return found

    def lines(self) -> str:
        if self.architecture:
            return "\n".join(self.listed)
        text = ["For src/retouch/kernels/triton/tiles.py:"]
        for kind in tune.KINDS:
            chosen = {each.size: each.ranked[0][0] for each in self.tuned if each.kind is kind}
            text += [f"{kind.table}:", line(self.gpu().name, chosen)]
        return "\n".join(text)


def _ranking(found: Tuned) -> list[Result]:
    used, scores = found.kind.used[found.size], found.ranked
    shown = [x for place, x in enumerate(scores) if place < SHOWN or x[0] == used]
    rows = [{"tile": source(tile) + (" (in use)" if tile == used else ""), "score": score} for tile, score in shown]
    left_out = [{"tile": f"{source(used)} (in use)", "score": None}]
    return rows + left_out * (used not in dict(scores))


def _beside(found: Tuned) -> list[Result]:
    best = found.times[found.ranked[0][0]]
    return [
        {**asdict(case[0]), "dtype": str(case[1]).removeprefix("torch."), "ms": ms, "sdpa": found.sdpa[case]}
        for case, ms in best.items()
    ]
