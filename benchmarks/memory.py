"""What sessions take, and that they do not grow: many edits in a row, storage types, a light save.

    python benchmarks/memory.py growth --edits 300 --history 400000000        # builtin/emoji
    python benchmarks/memory.py storage --model sd15 --dtype bfloat16          # recording and error of each type
    python benchmarks/memory.py light --model sd15 --steps 20 --edits 10
    python benchmarks/memory.py storage --tiny                                 # does it run at all

Without `--model` the built-in model, with it a pipeline with random weights (`retouch.models.pipelines`), whose times
and sizes are those of the real one. Edits are squares of one colour at places drawn by a fixed seed. On a busy machine
processor seconds (`cpu`) say more than those of the clock.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

import retouch
from retouch import Editor
from retouch.bench.difference import psnr
from retouch.bench.edits import soft_picture
from retouch.bench.machine import PeakMemory, give_back
from retouch.editing.diffusion.session import DiffusionSession
from retouch.editing.images import Pixels
from retouch.models import pipelines
from retouch.runtime.store import DTYPES

app = typer.Typer(add_completion=False)
Model = Annotated[str | None, typer.Option(help="Pipeline with random weights; none: builtin/emoji.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps.")]
Type = Annotated[str, typer.Option(help="Type of the weights.")]
Share = Annotated[float, typer.Option(help="Area of an edit, a part of the picture.")]
Tiny = Annotated[bool, typer.Option(help="The smallest network of the kind.")]


def opening(
    model: str | None, steps: int | None, dtype: str, tiny: bool, **options: Any
) -> Callable[[], DiffusionSession]:
    """What opens sessions of strength 1, each on the same picture."""
    if model is None:
        built_in = retouch.load("builtin/emoji", **options)
        return lambda: built_in.generate("cat", seed=1, strength=1.0)
    known = pipelines.get(model)
    editor = Editor(known.build(tiny).to(getattr(torch, dtype)), policy="fast", **options)
    return lambda: editor.open(soft_picture(known.image_size(tiny)), **known.settings(steps or known.steps[0]))


def recorded(model: str | None, steps: int | None, dtype: str, tiny: bool, **options: Any) -> DiffusionSession:
    """One of them."""
    return opening(model, steps, dtype, tiny, **options)()


class Painter:
    """Strokes on a session, the same for the same number of edits and seed."""

    def __init__(self, session: DiffusionSession, share: float, seed: int = 0) -> None:
        self.session, self.random = session, np.random.default_rng(seed)
        self.side = max(1, round((share * session.size[0] * session.size[1]) ** 0.5))

    def stroke(self) -> Pixels:
        pixels = self.session.pixels
        top, left = (int(self.random.integers(0, n - self.side)) for n in self.session.size)
        pixels[top : top + self.side, left : left + self.side] = self.random.integers(0, 256, 3)
        return pixels

    def edit(self) -> tuple[float, float]:
        """Make an edit; its seconds by the clock and of the processor."""
        drawn, clock, cpu = self.stroke(), time.perf_counter(), time.process_time()
        self.session.edit(drawn)
        return time.perf_counter() - clock, time.process_time() - cpu


def say(**facts: Any) -> None:
    typer.echo(json.dumps(facts))


@app.command()
def growth(
    edits: int = 300, history: int | None = None, share: Share = 0.004, model: Model = None, steps: Steps = None,
    dtype: Type = "float32", tiny: Tiny = False,
) -> None:  # fmt: skip
    """Many edits in a row: the time of each ten, and what the process takes after them. Then ten more in turns with the
    first ten of another session, as a machine's speed may change from one minute to the next.
    """
    open_one = opening(model, steps, dtype, tiny, history=history)
    session = open_one()
    painter, tens = Painter(session, share), []
    for done in range(10, edits + 1, 10):
        clock, cpu = zip(*(painter.edit() for _ in range(10)), strict=True)
        tens.append((statistics.median(clock), statistics.median(cpu)))
        give_back()
        memory = PeakMemory()
        memory.look()
        say(edits=done, clock_ms=1e3 * tens[-1][0], cpu_ms=1e3 * tens[-1][1], anon_mb=memory.anon / 1e6,
            held_mb=session.store.in_memory / 1e6,
            with_layers=sum(bool(v.snapshots) for v in session.versions))  # fmt: skip
    say(last_over_first={name: tens[-1][i] / tens[0][i] for i, name in enumerate(("clock", "cpu"))})
    first = Painter(open_one(), share, seed=1)  # regions that the networks do not know
    turns = np.array([(painter.edit(), first.edit()) for _ in range(10)])
    old, new = np.median(turns, axis=0)
    say(last_over_first_in_turns=dict(zip(("clock", "cpu"), old / new, strict=True)))


@app.command()
def storage(
    model: Model = None, steps: Steps = None, dtype: Type = "float32", share: Share = 0.012, tiny: Tiny = False
) -> None:
    """What a recording takes with each type of rows, and how far the same edit is from the dense one's picture."""
    for name in DTYPES:
        with PeakMemory() as memory:
            session = recorded(model, steps, dtype, tiny, storage=name)
            drawn = Painter(session, share).stroke()
            edited = session.edit(drawn)
        inside = edited.region.mask[0]
        dense = np.asarray(session.undo() and session.reference(drawn).image)
        error = np.abs(np.asarray(edited.image).astype(float) - dense)[inside]
        say(storage=name, recording_mb=sum(s.nbytes for s in session.versions[0].snapshots.values()) / 1e6,
            db=psnr(error), peak_anon_mb=memory.anon / 1e6,
            edit_s=edited.seconds["total"])  # fmt: skip


@app.command()
def light(
    model: Model = None, steps: Steps = None, edits: int = 10, share: Share = 0.012, dtype: Type = "float32",
    tiny: Tiny = False,
) -> None:  # fmt: skip
    """What a light save takes, how long it takes to open, and whether the same comes of it."""
    session = recorded(model, steps, dtype, tiny)
    painter = Painter(session, share)
    for _ in range(edits):
        painter.edit()
    with tempfile.TemporaryDirectory() as folder:
        place = session.save(Path(folder) / "light", light=True)
        before, taken = session.pixels, sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
        session.close()
        start = time.perf_counter()
        editor = Editor(session.model.pipe, policy=session.policy) if model else retouch.load("builtin/emoji")
        with retouch.open(place, editor=editor) as again:
            say(light_bytes=taken, open_s=time.perf_counter() - start, same=bool(np.array_equal(before, again.pixels)))


if __name__ == "__main__":
    app()
