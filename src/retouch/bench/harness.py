"""The harness of all suites: variants of cases in interleaved rounds, medians of their times, and how much is done."""

from __future__ import annotations

import statistics
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from rich.table import Table

from retouch import kernels
from retouch.bench.machine import PeakMemory
from retouch.bench.report import Column, Plot, Result, grouped, markdown, row_of, save_plots, terminal_table, write_text
from retouch.errors import OptionError
from retouch.kernels import Backend
from retouch.kernels.devices import selected

C = TypeVar("C", bound=Hashable)
T = TypeVar("T")


def timed(call: Callable[[], T], wait: Callable[[], None] = lambda: None) -> tuple[T, float]:
    """What a call gives, and its milliseconds until `wait` returns."""
    start = time.perf_counter()
    result = call()
    wait()
    return result, (time.perf_counter() - start) * 1e3


@dataclass(frozen=True)
class Progress:
    """How much of a run is done: a share of all of it, which nested loops divide further.

    show: told what comes next and the share, 0 to 1, that is done.
    """

    show: Callable[[str, float], None] = lambda text, done: None
    start: float = 0.0
    share: float = 1.0

    def say(self, text: str) -> None:
        """What comes next."""
        self.show(text, self.start)

    def steps(self, done: int, total: int, text: str) -> None:
        """As sessions report theirs."""
        self.show(text, self.start + self.share * done / max(1, total))

    def over(self, things: Sequence[T]) -> Iterator[tuple[T, Progress]]:
        """The things one by one, each with the progress of its own part."""
        part = self.share / max(1, len(things))
        for place, thing in enumerate(things):
            yield thing, Progress(self.show, self.start + place * part, part)


@dataclass(frozen=True)
class Variant:
    """One way of doing a case: `run` is timed; `before` and `after`, which gets the result, are not."""

    name: str
    run: Callable[[], Any]
    after: Callable[[Any], object] = lambda result: None
    before: Callable[[], object] = lambda: None


@dataclass
class Experiment(Generic[C]):
    """Rounds that run every variant of every case once, so that a slow moment of the machine meets all of them.

    cases: in the order in which they run. variants: those of a case, in order; a name that comes several times
    has as many samples in a round. rounds: the counted ones. warm_up: whether another one comes first; `memory`
    watches it. wait: returns when a run is done: a GPU's goes on after its call has returned. done: ends a round.
    """

    cases: Sequence[C]
    variants: Callable[[C], Sequence[Variant]]
    rounds: int
    warm_up: bool = True
    wait: Callable[[], None] = lambda: None
    done: Callable[[], None] = lambda: None
    memory: PeakMemory | None = None

    def __post_init__(self) -> None:
        self._samples: dict[tuple[C, str], list[float]] = defaultdict(list)
        self._first: dict[tuple[C, str], float] = {}

    def run(self, progress: Progress, title: str) -> None:
        """Run all rounds; KeyboardInterrupt and errors of a variant end them."""
        for number, part in progress.over(range(0 if self.warm_up else 1, self.rounds + 1)):
            words = f"round {number} of {self.rounds}" if number else "warming up"
            with self.memory if self.memory and not number else nullcontext():
                for case, of_case in part.over(self.cases):
                    for variant, of_variant in of_case.over(self.variants(case)):
                        of_variant.say(f"{title}: {words}, {variant.name}")
                        self._time(case, variant, counted=number > 0)
            self.done()

    def _time(self, case: C, variant: Variant, counted: bool) -> None:
        variant.before()
        result, elapsed = timed(variant.run, self.wait)
        self._first.setdefault((case, variant.name), elapsed)
        if counted:
            self._samples[case, variant.name].append(elapsed)
        variant.after(result)

    def median(self, case: C, name: str) -> float:
        """Median in ms of the counted rounds."""
        return statistics.median(self._samples[case, name])

    def first(self, case: C, name: str) -> float:
        """The very first time in ms, warming up included."""
        return self._first[case, name]

    def spread(self, case: C, *names: str) -> dict[str, dict[str, float]]:
        """Smallest and largest time in ms and the number of samples, by name."""
        found = {name: self._samples[case, name] for name in names}
        return {name: {"min": min(x), "max": max(x), "samples": len(x)} for name, x in found.items()}


class Suite(ABC):
    """What to measure, and how it is shown: what every sub-command of `retouch bench` runs.

    columns: what its results hold. by: the key of which every value has a table of its own; empty: all in one.
    title, caption: of its tables.
    """

    columns: ClassVar[Sequence[Column]]
    by: ClassVar[str] = ""
    title: ClassVar[str] = ""
    caption: ClassVar[str] = ""

    def heading(self, results: Sequence[Result]) -> tuple[str, str]:
        """Title and caption of the table of some results."""
        return self.title, self.caption

    @abstractmethod
    def measure(self, progress: Progress) -> Iterator[Mapping[str, Any]]:
        """What was found, one by one, before columns made results of it."""

    def check(self) -> None:  # noqa: B027
        """Read what the suite reads, so that bad input is known before long work starts; here nothing."""

    def results(self, progress: Progress | None = None) -> Iterator[Result]:
        """The results one by one, ready for JSON."""
        for found in self.measure(progress or Progress()):
            yield row_of(self.columns, found)

    def rows(self, results: Sequence[Result]) -> Sequence[Result]:
        """What the rows of a table are of: every result has one, unless a suite sums them up."""
        return results

    def parts(self, results: Sequence[Result]) -> list[Sequence[Result]]:
        """The results of each table."""
        return list(grouped(results, self.by).values()) if self.by else [results]

    def tables(self, results: Sequence[Result]) -> list[Table]:
        """For a terminal 80 columns wide."""
        parts = self.parts(results)
        return [terminal_table(*self.heading(part), self.columns, self.rows(part)) for part in parts]

    def notes(self, results: Sequence[Result]) -> list[str]:
        """What else is to be said of the results, a sentence or two each."""
        return []

    def document(self, results: Sequence[Result]) -> Any:
        """What is written as JSON."""
        return results

    def failed(self, results: Sequence[Result]) -> bool:
        """Whether the command ends as one that failed."""
        return False

    def lines(self) -> str:
        """What follows the tables, where something has been written or found that is no result."""
        return ""

    def markdown_table(self, results: Sequence[Result]) -> str:
        """The table of a report."""
        return markdown(self.columns, self.rows(results))

    def plots(self, results: Sequence[Result]) -> list[Plot]:
        """What is drawn of the results, beside each other."""
        return []

    def write_pictures(self, report: Path, results: Sequence[Result]) -> list[str]:
        """Write what a report shows beside it; the lines that show it."""
        plots, title = self.plots(results), self.heading(results)[0]
        return [f"![{title}]({save_plots(report.with_suffix('.png'), plots, title).name})"] if plots else []

    def write_report(self, path: Path, results: Sequence[Result], command: str) -> None:
        """Write a run of `command` as Markdown, with its pictures beside it. Raises FileError."""
        ran, machine = f"`{command}`", results[0].get("machine")
        if machine is not None:
            ran += f", commit {machine['commit']}; {machine['gpu'] or machine['cpu']}, {machine['threads']} threads, "
            ran += f"PyTorch {machine['torch']}"
        lines = []
        for part in self.parts(results):
            title, caption = self.heading(part)
            lines += [f"# {title}", f"{ran}.", self.markdown_table(part), *self.write_pictures(path, part)]
            lines += [caption.replace("\n", "; ")]
        write_text(path, "\n\n".join(filter(None, [*lines, *self.notes(results)])) + "\n")


def backend_of(name: str, device: str = "cpu") -> Backend:
    """The backend of that name on a device; OptionError where it cannot compute."""
    try:
        return kernels.backend(name, str(selected(device, name)))
    except (ValueError, ImportError) as error:
        raise OptionError(str(error)) from error


def busy(spreads: Sequence[Mapping[str, float]]) -> float:
    """Longest over shortest time of runs that do the same work: far above 1 on a busy machine."""
    return max(each["max"] for each in spreads) / min(each["min"] for each in spreads)


RESTLESS = 1.5
"""`busy` from which a machine is called so."""
