"""`retouch demo`: three edits in a row of a photograph that is enlarged and of a picture that is generated."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw
from rich import box
from rich.console import Console
from rich.table import Table

from retouch.editing.archive import Progress
from retouch.editing.diffusion import Editor
from retouch.editing.diffusion.session import DiffusionSession
from retouch.editing.gan import Upscaler
from retouch.editing.gan.upscaler import UpscaleSession
from retouch.editing.images import Pixels, difference, save_png
from retouch.editing.sheets import outlined, side_by_side
from retouch.kernels.devices import selected
from retouch.models.extras import require
from retouch.plan.policy import Policy
from retouch.plan.region import Mask

UPSCALER, GENERATOR, PROMPT = "builtin/realesr-animevideov3-x4", "builtin/emoji", "crying face"
PHOTO, TINY = 256, 64
STEPS, GUIDANCE, SEED = 20, 3.0, 7
GAIN = 10
COLUMNS = 6

NEXT = """Next:
  retouch edit demo/photo.png painted.png -o large.png --model builtin/realesrgan-x4
  retouch edit demo/emoji.png painted.png -o new.png --model builtin/emoji --prompt "red heart"
  retouch bench --model sd15-unet  # against torch.compile
  retouch bench --quality          # how close edits come to the dense model
and in Python: net = retouch.compile(module, inputs), see README.md."""

T = TypeVar("T")
AnySession = DiffusionSession | UpscaleSession


@dataclass(frozen=True)
class Outcome:
    """One edit: what was drawn, what came of it, the dense result, and the seconds of both."""

    name: str
    before: Pixels
    drawn: Pixels
    result: Pixels
    truth: Pixels
    update_s: float
    dense_s: float

    @property
    def mask(self) -> Mask:
        """Where the edit was drawn, bool [H, W]."""
        return difference(self.before, self.drawn, 0)


@dataclass(frozen=True)
class Shown:
    """What became of one session."""

    title: str
    kernels: str
    record_s: float
    undo_s: float
    outcomes: list[Outcome]


def run_demo(policy: str | Policy, device: str, backend: str, tiny: bool, progress: Progress) -> list[Shown]:
    """Run both sessions. Raises ImportError naming the extra to install when a library or the weights are missing."""
    photo = photograph(TINY if tiny else PHOTO)
    place = selected(device, backend)
    upscaler = Upscaler.from_pretrained(UPSCALER, device=place, backend=backend)
    generator = Editor.from_pretrained(GENERATOR, device=place, backend=backend, policy=policy)
    return [_upscaled(upscaler, photo, progress), _generated(generator, 4 if tiny else STEPS, progress)]


def show(sessions: list[Shown], folder: Path, console: Console) -> None:
    """Print the times and what to try next; write the pictures to `folder`."""
    console.print(_table(sessions))
    for kernels in dict.fromkeys(session.kernels for session in sessions):
        console.print(f"Computed with {kernels}", highlight=False)
    paths = _write(folder, sessions)
    console.print(f"Pictures in {folder}/: {', '.join(path.name for path in paths)}")
    console.print(NEXT, highlight=False)


def photograph(side: int) -> Pixels:
    """The face of scikit-image's astronaut (NASA, public domain), [side, side, 3]."""
    pixels = require("skimage.data", "demo").astronaut()
    face = Image.fromarray(pixels).crop((96, 0, 352, 256))
    return np.array(face.resize((side, side), Image.Resampling.LANCZOS))


# Edits


def stroke(pixels: Pixels) -> Pixels:
    """A curved brush stroke."""
    height, width = pixels.shape[:2]
    points = [(width * (0.30 + 0.4 * t), height * (0.24 - 0.14 * np.sin(np.pi * t))) for t in np.linspace(0, 1, 40)]
    image = Image.fromarray(pixels)
    ImageDraw.Draw(image).line(points, (214, 40, 57), max(2, width // 24), "curve")
    return np.array(image)


def pasted(pixels: Pixels) -> Pixels:
    """A patch of the picture pasted elsewhere."""
    height, width = pixels.shape[:2]
    h, w = height // 8, width // 6
    top, left, y, x = height // 3, width // 3, height * 3 // 4, width // 10
    drawn = pixels.copy()
    drawn[y : y + h, x : x + w] = pixels[top : top + h, left : left + w]
    return drawn


def erased(pixels: Pixels) -> Pixels:
    """A disc of the colour of the upper right corner."""
    height, width = pixels.shape[:2]
    corner = tuple(int(v) for v in np.median(pixels[: height // 8, -width // 8 :], (0, 1)))
    image = Image.fromarray(pixels)
    y, x, radius = 0.62 * height, 0.72 * width, 0.07 * width
    ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), corner)
    return np.array(image)


EDITS: dict[str, Callable[[Pixels], Pixels]] = {"stroke": stroke, "patch": pasted, "erasure": erased}


# Sessions


def _upscaled(editor: Upscaler, photo: Pixels, progress: Progress) -> Shown:
    session, record_s = _timed(lambda: editor.open(photo, progress=progress))
    outcomes = list(_edited(session, lambda: session.source, progress))
    _, undo_s = _timed(session.undo)
    return Shown("photograph, 4x enlarged", editor.kernels, record_s, undo_s, outcomes)


def _generated(editor: Editor, steps: int, progress: Progress) -> Shown:
    drawn = editor.generate(PROMPT, steps=steps, guidance=GUIDANCE, seed=SEED, progress=progress).pixels
    session, record_s = _timed(
        lambda: editor.open(drawn, prompt=PROMPT, steps=steps, guidance=GUIDANCE, seed=SEED, progress=progress)
    )
    outcomes = list(_edited(session, lambda: session.pixels, progress))
    _, undo_s = _timed(session.undo)
    return Shown(f"{PROMPT}, {steps} steps", editor.kernels, record_s, undo_s, outcomes)


def _edited(session: AnySession, source: Callable[[], Pixels], progress: Progress) -> Iterator[Outcome]:
    """All edits one after the other, each on the result of the one before."""
    for number, (name, draw) in enumerate(EDITS.items()):
        progress(number, len(EDITS), f"edit: {name}")
        before = source()
        drawn = draw(before)
        truth, dense_s = _timed(partial(session.reference, drawn))
        edited, update_s = _timed(partial(session.edit, drawn))
        yield Outcome(name, before, drawn, np.array(edited.image), np.array(truth.image), update_s, dense_s)
    progress(len(EDITS), len(EDITS), "edits done")


def _timed(call: Callable[[], T]) -> tuple[T, float]:
    """The result of a call and the seconds it took."""
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


# What is shown


def _table(sessions: list[Shown]) -> Table:
    made = Table(title="Dense model against updates (one run each, seconds)", box=box.SIMPLE_HEAD)
    made.add_column("run")
    for title in ("edited", "dense", "update", "faster", "most different"):
        made.add_column(title, justify="right")
    for session in sessions:
        made.add_row(f"[bold]{session.title}", "", "", "", "", "")
        dense = median(outcome.dense_s for outcome in session.outcomes)
        made.add_row("record", "", f"{dense:.2f}", f"{session.record_s:.2f}", "", "")
        for outcome in session.outcomes:
            made.add_row(*_row(outcome))
        made.add_row("undo", "", "", f"{session.undo_s:.4f}", "", "")
    made.caption = "most different: largest difference of update and dense in levels of 0 to 255"
    return made


def _row(outcome: Outcome) -> list[str]:
    most = np.abs(outcome.result.astype(int) - outcome.truth).max()
    return [
        outcome.name,
        f"{outcome.mask.mean():.1%}",
        f"{outcome.dense_s:.2f}",
        f"{outcome.update_s:.3f}",
        f"{outcome.dense_s / outcome.update_s:.1f}x",
        str(most),
    ]


def _write(folder: Path, sessions: list[Shown]) -> list[Path]:
    """The pictures of both sessions, and one sheet of all edits."""
    paths = [
        save_png(sessions[0].outcomes[0].before, folder / "photo.png"),
        save_png(sessions[0].outcomes[-1].result, folder / "large.png"),
        save_png(sessions[1].outcomes[0].before, folder / "emoji.png"),
        save_png(sessions[1].outcomes[-1].result, folder / "edited.png"),
    ]
    tiles = [tile for session in sessions for outcome in session.outcomes for tile in _tiles(outcome)]
    return [*paths, save_png(side_by_side(tiles, COLUMNS), folder / "sheet.png")]


def _tiles(outcome: Outcome) -> list[tuple[str, Pixels]]:
    error = np.abs(outcome.result.astype(int) - outcome.truth) * GAIN
    return [
        ("before", outcome.before),
        (f"edit: {outcome.name}, {outcome.mask.mean():.1%}", outcome.drawn),
        ("its region", outlined(outcome.drawn, outcome.mask)),
        (f"update, {outcome.update_s:.2f} s", outcome.result),
        (f"dense, {outcome.dense_s:.2f} s", outcome.truth),
        (f"|update - dense| x{GAIN}", error.clip(0, 255).astype(np.uint8)),
    ]
