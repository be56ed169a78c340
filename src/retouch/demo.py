"""`retouch demo`: a real network on an edited photograph, densely and incrementally."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor, nn

import retouch
from retouch import models, pictures
from retouch.bench.dense import CHANNELS_LAST, dense_runs, run_dense
from retouch.bench.edits import square
from retouch.bench.measure import compare
from retouch.models import Inputs, tensor_of

NETWORK = "ddpm-256"
ROUNDS = 3
SIZES = (0.05, 0.15)
STEPS = 2 + 2 * ROUNDS + (1 + len(SIZES)) * (1 + ROUNDS)

T = TypeVar("T")


@dataclass(frozen=True)
class Edit:
    """One edit of the photograph: a name, the region in pixels [H, W] and the edited input."""

    name: str
    mask: Tensor
    inputs: Inputs


@dataclass(frozen=True)
class Outcome:
    """What became of one edit: its output, the dense one, times in ms and errors."""

    edit: Edit
    update_ms: float
    updated: Tensor
    truth: Tensor
    active: Tensor
    info: Any
    errors: dict[str, Any]


class Runner:
    """Times calls and moves a progress bar on."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("starting", total=STEPS)

    def time(self, what: str, call: Callable[[], T]) -> tuple[T, float]:
        """The result of `call` and its duration in ms."""
        self._bar.update(self._task, description=what)
        start = time.perf_counter()
        result = call()
        elapsed = (time.perf_counter() - start) * 1e3
        self._bar.advance(self._task)
        return result, elapsed

    def repeat(self, what: str, call: Callable[[], T]) -> tuple[T, float]:
        """The last of `ROUNDS` results and the median duration in ms."""
        runs = [self.time(f"{what}, {i + 1} of {ROUNDS}", call) for i in range(ROUNDS)]
        return runs[-1][0], statistics.median(ms for _, ms in runs)


def run_demo(folder: Path, policy: str, backend: str, tiny: bool, console: Console) -> None:
    """Run the demonstration and write its pictures to `folder`.

    Raises ImportError naming the extra to install if scikit-image or diffusers is missing.
    """
    network = models.get(NETWORK)
    photo = pictures.photograph(network.image_size(tiny))
    console.print(_INTRODUCTION)
    with _progress() as bar:
        run = Runner(bar)
        module, _ = run.time("building the network", lambda: network.build(tiny))
        inputs = network.inputs(tiny).with_image(photo)
        net, compile_ms = run.time(
            "compiling", lambda: retouch.compile(module, inputs.args, policy=policy, backend=backend)
        )
        dense = dense_runs(module, inputs, compiled=False)[CHANNELS_LAST]
        before, dense_ms = run.repeat("dense run", dense)
        (_, recording), record_ms = run.repeat("recording", lambda: net.record(*inputs.args))
        outcomes = [_outcome(run, module, net, recording, before, edit) for edit in _edits(inputs, photo)]
    console.print(_table(dense_ms, record_ms, compile_ms, outcomes))
    written = pictures.write(folder, photo, before, outcomes[0])
    console.print(f"Pictures in {folder}/: {', '.join(path.name for path in written)}")


_INTRODUCTION = (
    f"Network: {NETWORK} (DDPM U-Net, 113.7 M parameters) with random weights. The pictures "
    "show how it responds to the photograph; it does not generate images. Arithmetic and "
    "times are those of the real network. `retouch bench` compares with torch.compile too."
)


def _edits(inputs: Inputs, photo: Tensor) -> list[Edit]:
    painted = pictures.paint(photo)
    size = (photo.shape[-2], photo.shape[-1])
    mask = (painted != photo).any(1)[0]
    made = [Edit("star", mask, inputs.with_image(painted))]
    for fraction in SIZES:
        edit = square(fraction, size)
        turned = torch.where(edit.mask, photo.flip(-1), photo)
        made.append(Edit("square", edit.mask, inputs.with_image(turned)))
    return made


def _outcome(run: Runner, module: nn.Module, net: Any, recording: Any, before: Tensor, edit: Edit) -> Outcome:
    truth, _ = run.time("dense run of the edit", lambda: run_dense(module, edit.inputs))
    samples = []
    for _ in range(ROUNDS):
        (updated, region), ms = run.time("updating", lambda: _update(net, recording, edit))
        updated = updated.clone()
        recording.undo()
        samples.append(ms)
    active = net.active_mask(region)
    return Outcome(
        edit,
        statistics.median(samples),
        updated,
        truth,
        active,
        net.explain(region),
        compare(before, updated, truth, active.unsqueeze(1).expand_as(truth)),
    )


def _update(net: Any, recording: Any, edit: Edit) -> tuple[Tensor, Any]:
    region = retouch.Region.from_mask(edit.mask)
    return tensor_of(net.update(recording, region, *edit.inputs.args)), region


def _table(dense_ms: float, record_ms: float, compile_ms: float, outcomes: list[Outcome]) -> Table:
    made = Table(title="Medians in milliseconds", box=box.SIMPLE_HEAD)
    made.add_column("run")
    for title in ("ms", "against dense", "GMAC", "error in region"):
        made.add_column(title, justify="right")
    gmacs = f"{outcomes[0].info.macs_dense / 1e9:.1f}"
    made.add_row("dense", f"{dense_ms:.0f}", "", gmacs, "")
    made.add_row("record", f"{record_ms:.0f}", f"{record_ms / dense_ms:.2f}x the time", gmacs, "")
    for outcome in outcomes:
        made.add_row(*_outcome_row(outcome, dense_ms))
    made.caption = f"compiled in {compile_ms / 1e3:.1f} s, once"
    return made


def _outcome_row(outcome: Outcome, dense_ms: float) -> list[str]:
    share = float(outcome.edit.mask.float().mean())
    return [
        f"update: {outcome.edit.name}, {share:.1%}",
        f"{outcome.update_ms:.0f}" if outcome.update_ms >= 10 else f"{outcome.update_ms:.1f}",
        f"{dense_ms / outcome.update_ms:.1f}x faster",
        f"{outcome.info.macs_active / 1e9:.1f}",
        f"{outcome.errors['rel_err']:.2g}",
    ]


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("time left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
