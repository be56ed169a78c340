"""What `retouch demo` runs: three edits in a row of a photograph that is enlarged and of generated pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, TypeVar

import numpy as np
from PIL import Image, ImageDraw

from retouch.bench import options
from retouch.bench.edits import brushed, pasted, photograph
from retouch.bench.harness import Progress, Suite, backend_of, timed
from retouch.bench.report import Column, Result, times
from retouch.editing.diffusion import Editor
from retouch.editing.diffusion.session import DiffusionSession
from retouch.editing.gan import Upscaler
from retouch.editing.gan.upscaler import UpscaleSession
from retouch.editing.images import Pixels, difference, save_png
from retouch.editing.sheets import outlined, side_by_side
from retouch.errors import OptionError
from retouch.kernels.devices import selected

UPSCALER, GENERATOR = "builtin/realesr-animevideov3-x4", "builtin/emoji-256"
NAMES = ("smiling face", "crying face", "red apple", "dog face")
"""What is generated, to lie in rows of two on one picture."""

SIDE, TINY = 256, 64
STEPS, GUIDANCE, SEED = 20, 3.0, 7
GAIN = 10
COLUMNS = 6
RED = (214, 40, 57)

NEXT = """Next:
  retouch studio --demo                     # paint in the browser (pip install 'retouch[studio]')
  retouch edit demo/photo.png painted.png -o large.png --model builtin/realesrgan-x4
  retouch edit demo/emoji.png painted.png -o new.png --model builtin/emoji-256 --prompt "red heart"
  retouch bench networks --model sd15-unet  # against torch.compile
  retouch bench quality                     # how close edits come to the dense model
and in Python: net = retouch.compile(module, inputs), see docs/tutorials/network.md."""

AnySession = DiffusionSession | UpscaleSession
T = TypeVar("T")


def stroke(pixels: Pixels) -> Pixels:
    """A curved brush stroke."""
    return brushed(pixels, lambda t: (0.30 + 0.4 * t, 0.24 - 0.14 * np.sin(np.pi * t)), RED, pixels.shape[1] / 24)


def patched(pixels: Pixels) -> Pixels:
    """A patch of the picture pasted elsewhere."""
    height, width = pixels.shape[:2]
    return pasted(pixels, (height // 3, width // 3), (height * 3 // 4, width // 10), (height // 8, width // 6))


def erased(pixels: Pixels) -> Pixels:
    """A disc of the colour of the upper right corner."""
    height, width = pixels.shape[:2]
    corner = tuple(int(v) for v in np.median(pixels[: height // 8, -width // 8 :], (0, 1)))
    image = Image.fromarray(pixels)
    y, x, radius = 0.62 * height, 0.72 * width, 0.07 * width
    ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), corner)
    return np.array(image)


EDITS: dict[str, Callable[[Pixels], Pixels]] = {"stroke": stroke, "patch": patched, "erasure": erased}


def _seconds(ms: float) -> str:
    return f"{ms / 1e3:.4f}" if ms < 10 else f"{ms / 1e3:.3g}"


@dataclass(frozen=True)
class Demo(options.Demo, Suite):
    """`pictures`, `tiles` and `kernels`: what is shown."""

    pictures: dict[str, Pixels] = field(default_factory=dict)
    tiles: list[tuple[str, Pixels]] = field(default_factory=list)
    kernels: list[str] = field(default_factory=list)

    by: ClassVar[str] = "session"
    columns: ClassVar[Sequence[Column]] = (
        Column("run", "run"),
        Column("share", "edited", "{:.1%}".format, none=""),
        Column("arithmetic", "arithmetic", "{:.0%}".format, none=""),
        Column("dense_ms", "dense", _seconds, none=""),
        Column("update_ms", "update", _seconds),
        Column("speedup", "faster", times, none=""),
        Column("most", "most different", none=""),
    )

    def check(self) -> None:
        """Read the photograph, look everything up by its name, and make the folder."""
        photograph(TINY if self.tiny else SIDE)
        backend_of(self.backend, self.device)
        try:
            self.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OptionError(f"cannot make the folder {self.output}: {error.strerror or error}") from error

    def measure(self, progress: Progress) -> Iterator[Mapping[str, Any]]:
        """Both sessions: recording, the edits one on top of the other, undo."""
        progress.say("loading the models")
        side, steps = (TINY, 4) if self.tiny else (SIDE, STEPS)
        place = selected(self.device, self.backend)
        upscaler = Upscaler.from_pretrained(UPSCALER, device=place, backend=self.backend)
        generator = Editor.from_pretrained(GENERATOR, device=place, backend=self.backend, policy=self.policy)
        self.kernels.extend(dict.fromkeys((upscaler.kernels, generator.kernels)))
        settings: dict[str, Any] = {"steps": steps, "guidance": GUIDANCE, "seed": SEED}
        self.pictures["photo"] = photo = photograph(side)
        progress.say("drawing four emoji")
        made = [generator.generate(name, size=(side, side), **settings).pixels for name in NAMES]
        self.pictures["emoji"] = emoji = np.vstack([np.hstack(made[:2]), np.hstack(made[2:])])
        runs: list[tuple[str, str, Callable[..., AnySession]]] = [
            ("large", "photograph, 4x enlarged", partial(upscaler.open, photo)),
            (
                "edited",
                f"four emoji, {steps} steps",
                partial(generator.open, emoji, prompt=", ".join(NAMES), **settings),
            ),
        ]
        for (name, title, opened), part in progress.over(runs):
            yield from ({"session": title, **found} for found in self._session(name, title, opened, part))

    def _session(
        self, name: str, title: str, opened: Callable[..., AnySession], progress: Progress
    ) -> Iterator[Result]:
        parts = progress.over(range(2 + 2 * len(EDITS)))

        def run(what: str, call: Callable[[], T]) -> tuple[T, float]:
            next(parts)[1].say(f"{title}: {what}")
            return timed(call)

        unknown = dict.fromkeys(("share", "arithmetic", "dense_ms", "speedup", "most"))
        session, ms = run("record", partial(opened, progress=progress.steps))
        yield {"run": "record", "update_ms": ms, **unknown}
        for edit, draw in EDITS.items():
            before = session.source if isinstance(session, UpscaleSession) else session.pixels
            drawn = draw(before)
            mask = difference(before, drawn, 0)
            dense, dense_ms = run("dense", partial(session.reference, drawn))
            update, ms = run("update", partial(session.edit, drawn))
            truth, picture = np.array(dense.image), np.array(update.image)
            error = np.abs(picture.astype(int) - truth)
            self.tiles.extend(
                [
                    ("before", before),
                    (f"edit: {edit}, {mask.mean():.1%}", drawn),
                    ("its region", outlined(drawn, mask)),
                    (f"update, {ms / 1e3:.2f} s", picture),
                    (f"dense, {dense_ms / 1e3:.2f} s", truth),
                    (f"|update - dense| x{GAIN}", (GAIN * error).clip(0, 255).astype(np.uint8)),
                ]
            )
            made = session.version.facts
            facts = {"share": float(mask.mean()), "arithmetic": made["macs"] / made["dense_macs"]}
            took = {"dense_ms": dense_ms, "update_ms": ms, "speedup": dense_ms / ms}
            yield {"run": edit, **facts, **took, "most": int(error.max())}
        _, ms = run("undo", session.undo)
        yield {"run": "undo", "update_ms": ms, **unknown}
        self.pictures[name] = picture

    def heading(self, results: Sequence[Result]) -> tuple[str, str]:
        """Which session."""
        below = "arithmetic: share of dense's; most different: grey levels"
        return f"{results[0]['session']} (one run each, seconds)", below

    def lines(self) -> str:
        """Where the pictures of both sessions are, and a sheet of all edits."""
        paths = [save_png(pixels, self.output / f"{name}.png") for name, pixels in self.pictures.items()]
        paths.append(save_png(side_by_side(self.tiles, COLUMNS), self.output / "sheet.png"))
        names = ", ".join(path.name for path in paths)
        return "\n".join(
            [*(f"Computed with {text}" for text in self.kernels), f"Pictures in {self.output}/: {names}", NEXT]
        )
