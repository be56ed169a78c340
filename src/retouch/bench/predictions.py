"""Predicted times as a suite; nothing is run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rich.table import Table

from retouch import models
from retouch.bench.edits import EDIT, edits_of
from retouch.bench.forecast import ForecastOptions, assumptions, forecast, forecast_markdown, forecast_tables
from retouch.bench.harness import Progress, Suite
from retouch.bench.options import chosen
from retouch.bench.report import Column, Result, write_text
from retouch.plan.policy import PRESETS


@dataclass(frozen=True)
class Predictions(Suite):
    """What to predict, for devices by name. Without `edit` and `mask`: the edits that SIGE's authors measured."""

    model: Sequence[str] = ("ddpm-256",)
    device: Sequence[str] = ("rtx3090",)
    edit: Sequence[float] = ()
    mask: Sequence[Path] = ()
    policy: Sequence[str] = ("paper",)
    dtype: str = "float32"
    dilate: int | None = None
    tiny: bool = False

    columns: ClassVar[Sequence[Column]] = ()

    def _options(self) -> ForecastOptions:
        edits = (lambda size: edits_of(self.edit, self.mask, size)) if self.edit or self.mask else None
        return ForecastOptions(self.model, self.device, edits, EDIT, self.policy, self.dtype, self.dilate, self.tiny)

    def check(self) -> None:
        """Look everything up by its name, and read every mask."""
        chosen(self.model, models.names(), "model")
        chosen(self.policy, PRESETS, "policy")
        self._options().check_edits()

    def measure(self, progress: Progress) -> Iterator[Result]:
        """Every network under every policy for every edit and device."""
        options = self._options()
        parts = progress.over(range(options.steps))
        yield from forecast(options, lambda text: next(parts)[1].say(text))

    def heading(self, results: Sequence[Result]) -> tuple[str, str]:
        """What the figures are."""
        return "Predictions", ""

    def tables(self, results: Sequence[Result]) -> list[Table]:
        """One for each device."""
        return forecast_tables(results)

    def notes(self, results: Sequence[Result]) -> list[str]:
        """What the predictions rest on."""
        return assumptions(results)

    def write_report(self, path: Path, results: Sequence[Result], command: str) -> None:
        """The tables, and what they rest on."""
        write_text(path, forecast_markdown(results, command))
