"""What canvases are held to: edits of a large picture against crop and stitch, memory, the planner's choices, seams.

    python benchmarks/canvas.py --model sd15-lcm --dtype bfloat16 --json canvas.json
    python benchmarks/canvas.py --tiny                       # does it run at all

Pipelines with random weights (`retouch.models.pipelines`): times and arithmetic are those of the real ones. Crop and
stitch is diffusers' own (`StableDiffusionInpaintPipeline` with `padding_mask_crop`), with the context and size of the
viewport that the planner chose. Every ratio is of runs that took turns; medians, or minima with `--minima` on a busy
machine. Seams are of the built-in model, which is trained.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image

from retouch import Editor
from retouch.bench.difference import seam
from retouch.editing.canvas.canvas import Canvas
from retouch.editing.images import Box, Pixels, save_png
from retouch.editing.sheets import outlined, side_by_side
from retouch.models import pipelines
from retouch.plan.region import Mask

STROKE = np.array((214, 40, 57), np.uint8)
PER_PIXEL = 12
"""Bytes that a canvas may take for each of its pixels."""


def seconds(call: Callable[..., Any], *values: Any, **options: Any) -> float:
    start = time.perf_counter()
    call(*values, **options)
    return time.perf_counter() - start


def photograph(width: int, height: int) -> Pixels:
    """Soft colours with some grain."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (height // 60 + 2, width // 60 + 2, 3), np.uint8))
    soft = np.array(coarse.resize((width, height), Image.Resampling.BICUBIC))
    return soft // 16 * 15 + random.integers(0, 16, soft.shape, np.uint8)


def placed(size: tuple[int, int], sides: tuple[int, int], random: np.random.Generator) -> Box:
    """A box with sides (height, width) somewhere in a picture."""
    top, left = (int(random.integers(0, limit - side + 1)) for limit, side in zip(size, sides, strict=True))
    return slice(top, top + sides[0]), slice(left, left + sides[1])


def stroke(canvas: Canvas, box: Box) -> dict[str, Any]:
    """Arguments of an edit that fills a box."""
    sides = tuple(span.stop - span.start for span in box)
    return {"image": np.broadcast_to(STROKE, (*sides, 3)).copy(), "mask": np.ones(sides, bool), "box": box}


class Bench:
    """A pipeline with its editor, and a large picture."""

    def __init__(self, name: str, dtype: str, policy: str, width: int, height: int, tiny: bool) -> None:
        known = pipelines.get(name)
        self.pipe = known.build(tiny).to(getattr(torch, dtype))
        for part in (self.pipe.unet, self.pipe.vae):
            part.to(memory_format=torch.channels_last)
        size = known.image_size(tiny)
        self.editor = Editor(self.pipe, policy=policy)
        self.settings = {"prompt": known.prompt, "guidance": known.guidance, "steps": known.steps[0], "strength": 1.0}
        self.inpaint = StableDiffusionInpaintPipeline(**self.pipe.components, requires_safety_checker=False)
        self.inpaint.set_progress_bar_config(disable=True)
        self.picture, self.size = photograph(width, height), size

    def canvas(self) -> Canvas:
        return self.editor.canvas(self.picture, size=self.size, enlarger="lanczos", **self.settings)

    def crop_and_stitch(self, box: Box, side: int) -> None:
        """Fill a box with the stroke and redraw it in a square crop of a side, as diffusers does."""
        edited, mask = self.picture.copy(), np.zeros(self.picture.shape[:2], np.uint8)
        edited[box], mask[box] = STROKE, 255
        longest = max(span.stop - span.start for span in box)
        self.inpaint(
            prompt=self.settings["prompt"], image=Image.fromarray(edited), mask_image=Image.fromarray(mask),
            height=self.size[0], width=self.size[1], padding_mask_crop=max(0, (side - longest) // 2),
            num_inference_steps=self.settings["steps"], guidance_scale=self.settings["guidance"],
            strength=self.settings["strength"], generator=torch.Generator().manual_seed(0),
        )  # fmt: skip


def speeds(bench: Bench, sides: tuple[int, int], rounds: int, edits: int, of: Callable[..., float]) -> dict[str, Any]:
    """First and later edits of a stroke against crop and stitch, which take turns."""
    random = np.random.default_rng(0)
    crops, firsts, later = [], [], []
    warm = bench.canvas()
    warm.edit(**stroke(warm, placed(warm.picture.size, sides, random)), plan="new")
    warm.close()
    for _ in range(rounds):
        canvas = bench.canvas()
        box = placed(canvas.picture.size, sides, random)
        plan = canvas.plan(**stroke(canvas, box))
        assert plan is not None
        best = max((each for each in plan.candidates if each.way in ("new", "whole")), key=lambda each: each.quality)
        crops.append(seconds(bench.crop_and_stitch, box, best.viewport.sides[0]))
        firsts.append(seconds(canvas.edit, **stroke(canvas, box), plan=best))
        for each in near(best.viewport.box, sides, edits, random):
            later.append(seconds(canvas.edit, **stroke(canvas, each), plan="sparse"))
            canvas.undo()
        crops.append(seconds(bench.crop_and_stitch, box, best.viewport.sides[0]))
        canvas.close()
    return {
        "crop_s": of(crops), "first_s": of(firsts), "later_s": of(later),
        "first_over_crop": of(firsts) / of(crops), "crop_over_later": of(crops) / of(later),
        "planner_first": plan.chosen.way, "scale": best.viewport.scale, "spread_crop": max(crops) / min(crops),
    }  # fmt: skip


def near(viewport: Box, sides: tuple[int, int], count: int, random: np.random.Generator) -> Iterator[Box]:
    """Boxes inside a viewport."""
    inner = tuple(span.stop - span.start for span in viewport)
    for _ in range(count):
        rows, columns = placed((inner[0], inner[1]), sides, random)
        yield (
            slice(viewport[0].start + rows.start, viewport[0].start + rows.stop),
            slice(viewport[1].start + columns.start, viewport[1].start + columns.stop),
        )


def choices(bench: Bench, count: int, within: float) -> dict[str, Any]:
    """What the planner chose against the fastest candidate of enough quality, for edits of mixed size and place.

    within: candidates are tried that are predicted to take at most so many times what the fastest does.
    """
    random, canvas, ratios, ways = np.random.default_rng(1), bench.canvas(), [], []
    sizes = np.geomspace(12, min(canvas.picture.size) / 2, 8)
    anchors = [placed(canvas.picture.size, (1, 1), random) for _ in range(max(1, count // 6))]
    for number in range(count):
        sides = tuple(max(1, int(random.choice(sizes) * random.uniform(0.5, 1))) for _ in range(2))
        centre = [span.start for span in anchors[number % len(anchors)]]
        starts = [min(max(0, at - side // 2), limit - side)
                  for at, side, limit in zip(centre, sides, canvas.picture.size, strict=True)]  # fmt: skip
        box = slice(starts[0], starts[0] + sides[0]), slice(starts[1], starts[1] + sides[1])
        plan = canvas.plan(**stroke(canvas, box))
        assert plan is not None
        good = [each for each in plan.candidates if each.quality >= canvas.planner.floor] or [plan.chosen]
        least = min(each.seconds for each in good)
        others = [each for each in good if each.seconds <= within * least and each.place != plan.chosen.place]
        took = []
        for each in (plan.chosen, *others):
            twin = canvas.branch()
            took.append(seconds(twin.edit, **stroke(twin, box), plan=each))
            twin.close()
        ratios.append(took[0] / min(took))
        ways.append(plan.chosen.way)
        canvas.edit(**stroke(canvas, box))
    canvas.close()
    return {
        "plans": count, "planner_within_15_percent": sum(ratio <= 1.15 for ratio in ratios) / count,
        "planner_median": statistics.median(ratios), "planner_worst": max(ratios),
        "ways": {way: ways.count(way) for way in dict.fromkeys(ways)},
    }  # fmt: skip


def seams(count: int) -> dict[str, Any]:
    """Steps across the borders of regions on a canvas, and in a single session that shows the same."""
    editor, random = Editor.from_pretrained("builtin/emoji"), np.random.default_rng(2)
    settings = {"prompt": "red apple", "steps": 8, "strength": 0.6}
    found: dict[str, list[float]] = {"canvas": [], "session": []}
    picture = photograph(700, 500)
    for number in range(count):
        canvas = editor.canvas(picture, enlarger="lanczos", **settings)
        sides = [(10, 14), (24, 30), (60, 50)][number % 3]
        box = placed(canvas.picture.size, sides, random)
        before = canvas.pixels
        canvas.edit(**stroke(canvas, box), plan="new")
        viewport = canvas.pool.views[-1].scaling
        mask: Mask = np.zeros(canvas.picture.size, bool)
        mask[box] = True
        border = editor.model.policy.dilate
        found["canvas"].append(seam(canvas.pixels, before, mask, -(-border // max(1, round(viewport.scale)))))
        session = editor.open(viewport.shown(before[viewport.box]), **settings)
        small, drawn = viewport.shown_mask(mask[viewport.box]) > 0, session.pixels
        drawn[small] = STROKE
        shown = session.pixels
        session.edit(drawn, mask=small)
        found["session"].append(seam(session.pixels, shown, small, border))
        canvas.close()
        session.close()
    return {f"seam_{name}": float(np.mean(values)) for name, values in found.items()}


def figure(path: Path) -> None:
    """A small stroke on a sheet of emoji, redrawn in an enlarged viewport and in the whole sheet reduced."""
    editor, names = Editor.from_pretrained("builtin/emoji"), ("grinning face", "red heart", "red apple", "sun")
    faces = [editor.generate(name, steps=12, seed=seed).image.resize((200, 200)) for seed, name in enumerate(names)]
    sheet: Pixels = np.vstack([np.hstack(faces[:2]), np.hstack(faces[2:])])
    drawn, box, close = sheet.copy(), (slice(112, 142), slice(80, 125)), (slice(60, 180), slice(40, 160))
    drawn[box] = STROKE
    tiles = []
    for title, scale in (("in the viewport", 1.0), ("in the whole, reduced", 0.32)):
        canvas = editor.canvas(sheet, prompt=names[0], steps=12, strength=0.7, enlarger="lanczos")
        plan = canvas.plan(drawn)
        assert plan is not None
        chosen = next(each for each in plan.candidates if each.viewport.scale == scale and each.way != "dense")
        canvas.edit(drawn, plan=chosen)
        if not tiles:
            seen: Mask = np.zeros(canvas.picture.size, bool)
            seen[chosen.viewport.box] = True
            tiles = [("stroke and viewport", outlined(drawn, seen)), ("stroke", drawn[close])]
        tiles.append((title, canvas.pixels[close]))
    save_png(side_by_side(tiles), path)


def peak(width: int, height: int) -> None:
    """Print the most memory that an edit of a picture of a size took, with a tiny model."""
    bench = Bench("sd15-lcm", "float32", "fast", width, height, tiny=True)
    path = Path(f"canvas-{width}x{height}.png")
    Image.fromarray(bench.picture).save(path)
    bench.picture = np.empty((0, 0, 3), np.uint8)
    Path("/proc/self/clear_refs").write_text("5")  # of Linux: the peak counts from here
    try:
        canvas = bench.editor.canvas(path, size=bench.size, enlarger="lanczos", **bench.settings)
        for sides in ((40, 120), (16, 16)):
            box = placed(canvas.picture.size, sides, np.random.default_rng(3))
            canvas.edit(**stroke(canvas, box))
            canvas.undo()
        canvas.write(path)
        canvas.close()
    finally:
        path.unlink()
    status = Path("/proc/self/status").read_text()
    print(1024 * int(re.search(r"VmHWM:\s*(\d+)", status)[1]))


def memory(width: int, height: int) -> dict[str, Any]:
    """Bytes for each pixel by which a large picture takes more than a small one, all else equal."""
    peaks = []
    for size in ((256, 256), (width, height)):
        command = [sys.executable, __file__, "--peak", *(f"{side}" for side in size)]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    return {"bytes_per_pixel": (peaks[1] - peaks[0]) / (width * height - 256**2), "bar": PER_PIXEL}


def main(
    model: str = "sd15-lcm",
    dtype: str = "float32",
    policy: str = "fast",
    size: tuple[int, int] = (4000, 3000),
    stroke_size: tuple[int, int] = (120, 40),
    rounds: int = 3,
    edits: int = 5,
    plans: int = 60,
    within: float = 2.0,
    seam_edits: int = 9,
    resident: bool = True,
    tiny: bool = False,
    minima: bool = False,
    figure_file: Annotated[Path | None, typer.Option("--figure")] = None,
    peak_of: Annotated[tuple[int, int] | None, typer.Option("--peak", hidden=True)] = None,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure and print one line for each figure. Sizes are width and height; 0 leaves a part out."""
    if peak_of is not None:
        peak(*peak_of)
        return
    if figure_file is not None:
        figure(figure_file)
        return
    of = min if minima else statistics.median
    found: dict[str, Any] = {"model": model, "dtype": dtype, "policy": policy, "size": size, "tiny": tiny}
    bench = Bench(model, dtype, policy, *size, tiny) if rounds or plans else None
    if bench and rounds:
        found |= speeds(bench, (stroke_size[1], stroke_size[0]), rounds, edits, of)
    if bench and plans:
        found |= choices(bench, plans, within)
    if resident:
        found |= memory(*size)
    if seam_edits:
        found |= seams(seam_edits)
    for name, value in found.items():
        print(f"{name:26} {value:.4g}" if isinstance(value, float) else f"{name:26} {value}")
    if json_file:
        json_file.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    typer.run(main)
