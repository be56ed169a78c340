"""What canvases are held to: edits of a large picture against crop and stitch, memory, the planner's choices, seams.

    python benchmarks/canvas.py speed --model sd15-lcm --dtype bfloat16
    python benchmarks/canvas.py plans --model sd15-lcm --dtype bfloat16
    python benchmarks/canvas.py memory
    python benchmarks/canvas.py seams
    python benchmarks/canvas.py details --sheet details.webp
    python benchmarks/canvas.py speed --tiny                 # does it run at all

`speed` and `plans` take pipelines with random weights (`retouch.models.pipelines`): times and arithmetic are those of
the real ones. Crop and stitch is diffusers' own (`StableDiffusionInpaintPipeline` with `padding_mask_crop`), with the
context and size of the viewport that the planner chose. Every ratio is of runs that took turns; medians, or minima with
`--minima`, or seconds of the processor with `--processor` on a busy machine. `seams` and `details` take the built-in
models, which are trained.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image
from shared import RED, Json, built, seconds, told

from retouch import Editor
from retouch.bench.difference import seam
from retouch.editing.canvas.canvas import Canvas
from retouch.editing.canvas.composition import set_in, shown
from retouch.editing.canvas.picture import Picture
from retouch.editing.canvas.planner import Candidate, Plan
from retouch.editing.canvas.request import read
from retouch.editing.canvas.resample import Scaling, scaled
from retouch.editing.canvas.viewport import around
from retouch.editing.diffusion.editor import GUIDANCE
from retouch.editing.images import Box, Pixels, box_of, save_png
from retouch.editing.sheets import outlined, side_by_side
from retouch.models import pipelines
from retouch.models.lpips import Lpips, trained
from retouch.plan.region import Mask

PER_PIXEL = 12
"""Bytes that a canvas may take for each of its pixels."""


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
    return {"image": np.full((*sides, 3), RED, np.uint8), "mask": np.ones(sides, bool), "box": box}


class Bench:
    """A pipeline with its editor, and a large picture."""

    def __init__(self, name: str, dtype: str, policy: str, width: int, height: int, tiny: bool) -> None:
        known = pipelines.get(name)
        self.pipe = built(name, dtype, tiny)
        size = known.image_size(tiny)
        self.editor = Editor(self.pipe, policy=policy)
        self.settings = known.settings(known.steps[0])
        self.inpaint = StableDiffusionInpaintPipeline(**self.pipe.components, requires_safety_checker=False)
        self.inpaint.set_progress_bar_config(disable=True)
        self.picture, self.size = photograph(width, height), size

    def canvas(self) -> Canvas:
        return self.editor.canvas(self.picture, size=self.size, enlarger="lanczos", **self.settings)

    def crop_and_stitch(self, box: Box, side: int) -> None:
        """Fill a box with the stroke and redraw it in a square crop of a side, as diffusers does."""
        edited, mask = self.picture.copy(), np.zeros(self.picture.shape[:2], np.uint8)
        edited[box], mask[box] = RED, 255
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


def placed_around(canvas: Canvas, count: int) -> Iterator[Box]:
    """Boxes of mixed size, in turn around a few places."""
    random, limits = np.random.default_rng(1), canvas.picture.size
    sizes = np.geomspace(12, min(limits) / 2, 8)
    anchors = [placed(limits, (1, 1), random) for _ in range(max(1, count // 10))]
    for number in range(count):
        sides = [max(1, int(random.choice(sizes) * random.uniform(0.5, 1))) for _ in range(2)]
        centre = [span.start for span in anchors[number % len(anchors)]]
        starts = [min(max(0, at - side // 2), limit - side)
                  for at, side, limit in zip(centre, sides, limits, strict=True)]  # fmt: skip
        yield slice(starts[0], starts[0] + sides[0]), slice(starts[1], starts[1] + sides[1])


def alone(canvas: Canvas, candidate: Candidate, asked: dict[str, Any]) -> dict[str, float]:
    """Seconds that a candidate takes, by what they are spent on: it is made in a branch, all of it, its region new."""
    twin = canvas.branch()
    twin.planner = replace(canvas.planner, costs=deepcopy(canvas.planner.costs))  # which learn from what was chosen
    for net in canvas.networks().values():
        net.forget()
    try:
        return twin.edit(**asked, plan=candidate).seconds
    finally:
        twin.close()


def tried(canvas: Canvas, plan: Plan, within: float, asked: dict[str, Any]) -> list[dict[str, Any]]:
    """What the candidates of a plan take that may be the fastest of enough quality, the chosen one first."""
    good = [each for each in plan.candidates if each.quality >= canvas.planner.floor] or [plan.chosen]
    least = min(each.seconds for each in good)
    same = [each for each in good if each.way in ("new", "whole") and not each.record]  # as a sparse one
    others = [each for each in good if each.seconds <= within * least and each not in (plan.chosen, *same)]
    return [
        {"way": each.way, "scale": each.viewport.scale, "predicted": each.seconds, **alone(canvas, each, asked)}
        for each in (plan.chosen, *others)
    ]


def choices(bench: Bench, count: int, within: float, later: bool) -> dict[str, Any]:
    """What the planner chose against the fastest candidate of enough quality, for edits of mixed size and place.

    within: candidates are timed that are predicted to take at most so many times what the fastest does. later: as jobs
    are planned, after which what was made densely is recorded, or as edits that return when they are made.
    """
    canvas, edits = bench.canvas(), []
    for way in ("new", "dense"):  # the first of a kind takes longer than any other
        asked = stroke(canvas, placed(canvas.picture.size, (8, 8), np.random.default_rng(0)))
        canvas.edit(**asked, plan=way)
        canvas.undo()
    canvas.close()
    canvas = bench.canvas()
    for box in placed_around(canvas, count):
        asked = stroke(canvas, box)
        request = canvas._request(**asked, threshold=None, options={})
        plan = canvas._planned(request, later=later)
        edits.append(tried(canvas, plan, within, asked))
        for net in canvas.networks().values():
            net.forget()
        canvas.edit(**asked, plan=plan.chosen)
        if later and plan.chosen.way == "dense":
            canvas.preparation(canvas.now.lasting(plan.chosen.viewport)).record()
    canvas.close()
    ratios = [each[0]["total"] / min(one["total"] for one in each) for each in edits]
    predicted = [each[0]["predicted"] / each[0]["total"] for each in edits]
    ways = [each[0]["way"] for each in edits]
    return {
        "plans": count, "planner_within_15_percent": sum(ratio <= 1.15 for ratio in ratios) / count,
        "planner_median": statistics.median(ratios), "planner_worst": max(ratios),
        "predicted_over_measured": statistics.median(predicted),
        "predicted_from": np.quantile(predicted, 0.1).item(), "predicted_to": np.quantile(predicted, 0.9).item(),
        "ways": {way: ways.count(way) for way in dict.fromkeys(ways)}, "edits": edits,
    }  # fmt: skip


def seams(count: int) -> dict[str, Any]:
    """Steps across the borders of regions on a canvas, and in the session of the viewport, by itself: in pixels of the
    model and in those of the canvas, as a border of half as many pixels has steps of twice the height.
    """
    editor, random = Editor.from_pretrained("builtin/emoji"), np.random.default_rng(2)
    settings = {"prompt": "red apple", "steps": 8, "strength": 0.6}
    found: dict[str, list[float]] = {}
    picture = photograph(700, 500)
    for number in range(count):
        canvas = editor.canvas(picture, enlarger="lanczos", **settings)
        sides = [(10, 14), (24, 30), (60, 50)][number % 3]
        box = placed(canvas.picture.size, sides, random)
        before = canvas.pixels
        canvas.edit(**stroke(canvas, box), plan="new")
        view = canvas.pool.views[-1]
        viewport, session = view.scaling, view.opened
        mask: Mask = np.zeros(canvas.picture.size, bool)
        mask[box] = True
        own, seen = mask[viewport.box], viewport.shown_mask(mask[viewport.box]) > 0
        on_canvas = [pixels[viewport.box] for pixels in (canvas.pixels, before)]
        in_session = [session.pixels, session.versions[0].pixels]
        near = math.ceil(session.border / viewport.scale)
        for name, pictures in (("canvas", map(viewport.shown, on_canvas)), ("session", in_session)):
            found.setdefault(name, []).append(seam(*pictures, seen, session.border))
        for name, pictures in (("canvas_own", on_canvas), ("session_own", map(viewport.returned, in_session))):
            found.setdefault(name, []).append(seam(*pictures, own, near))
        canvas.close()
    found["tiles"] = list(tiled(editor, max(1, count // 3), random, settings))
    return {f"seam_{name}": float(np.mean(values)) for name, values in found.items()}


def tiled(editor: Editor, count: int, random: np.random.Generator, settings: dict[str, Any]) -> Iterator[float]:
    """Steps across the borders of viewports inside regions that several of them draw, more than those beside them."""
    picture = photograph(500, 400)
    for _ in range(count):
        canvas = editor.canvas(picture, enlarger="lanczos", **settings)
        box = placed(canvas.picture.size, (200, 240), random)
        canvas.edit(**stroke(canvas, box), plan="tiles")
        inner = canvas.pixels[box].astype(int)
        for axis in (0, 1):
            steps = np.abs(np.diff(inner, axis=axis)).mean((1 - axis, 2))
            edges = {edge - box[axis].start for view in canvas.pool.views
                     for edge in (view.scaling.box[axis].start, view.scaling.box[axis].stop)}  # fmt: skip
            for edge in (edge for edge in edges if 8 < edge < len(steps) - 8):
                yield float(steps[edge - 1] - np.delete(steps[edge - 8 : edge + 8], 7).mean())
        canvas.close()


NAMES = ("grinning face", "red heart", "red apple", "sun", "dog face", "pizza", "sunflower", "cat face")
COLOURS = ((214, 40, 57), (40, 90, 214), (30, 30, 30), (250, 210, 60))


@dataclass(frozen=True, eq=False)
class Detail:
    """An ellipse drawn on a small thing in a picture: its name and the box of it, the drawing, and where that is."""

    name: str
    box: Box
    drawn: Pixels
    mask: Mask


def scene(pictures: Mapping[str, Pixels], random: np.random.Generator, side: int = 1024) -> tuple[Pixels, list[Any]]:
    """A sheet of small pictures of several sizes, with the names and boxes of all."""
    sheet, found, sides = np.full((side, side, 3), 255, np.uint8), [], (40, 56, 80, 112, 150)
    for number, (row, column) in enumerate(np.ndindex(6, 6)):
        name, each = str(random.choice(list(pictures))), sides[number * 7 % len(sides)]
        top, left = (at * side // 6 + int(random.integers(0, side // 6 - each)) for at in (row, column))
        box = slice(top, top + each), slice(left, left + each)
        sheet[box] = scaled(pictures[name], (each, each))
        found.append((name, box))
    return sheet, found


def detail(sheet: Pixels, things: Sequence[Any], width: int, random: np.random.Generator) -> Detail:
    """An ellipse of a width, half as high, in the middle of a thing that is wider."""
    fit = [each for each in things if each[1][0].stop - each[1][0].start >= 1.4 * width]
    name, box = fit[int(random.integers(len(fit)))]
    y, x = ((span.start + span.stop) / 2 + random.uniform(-0.1, 0.1) * (span.stop - span.start) for span in box)
    rows, columns = np.ogrid[: sheet.shape[0], : sheet.shape[1]]
    mask = ((columns - x) / (width / 2)) ** 2 + ((rows - y) / (width / 4)) ** 2 <= 1
    return Detail(name, box, np.where(mask[..., None], np.uint8(COLOURS[int(random.integers(4))]), sheet), mask)


def densely(editor: Editor, sheet: Pixels, each: Detail, viewport: Scaling, settings: dict[str, Any]) -> Pixels:
    """What becomes of the thing by an edit of the dense networks in a viewport."""
    picture = Picture(sheet.copy())
    request = read(picture, each.drawn, each.mask, None, 0, {})
    assert request is not None
    asked = GUIDANCE, None, settings["steps"], settings.get("seed", 0), settings["strength"]
    blank = editor.unrecorded(viewport.size, each.name, None, *asked)
    now = viewport.shown(picture.seen(viewport.box))
    seen = shown(request, viewport, picture, now)
    edited, _ = blank.redraw(now, seen.image, seen.mask, False, {})
    set_in(request, viewport, np.asarray(edited.image), picture, blank.border, None)
    return picture.levels[each.box]


def apart(lpips: Lpips, one: Pixels, other: Pixels) -> float:
    """LPIPS of two small pictures, enlarged."""
    return float(lpips.distance_map(*(scaled(picture, (192, 192)) for picture in (one, other))).mean())


class Details:
    """Details of things on sheets, and what the dense networks make of those things alone, at the size that they were
    trained for.
    """

    def __init__(self, model: str) -> None:
        self.editor, self.lpips, self.random = Editor.from_pretrained(model), trained(), np.random.default_rng(4)
        self.settings: dict[str, Any] = {"steps": 4 if model.endswith("lcm") else 10, "strength": 0.6}
        self.pictures = {
            name: np.asarray(self.editor.generate(name, steps=self.settings["steps"], seed=seed).image)
            for seed, name in enumerate(NAMES)
        }

    def each(self, count: int) -> Iterator[tuple[Pixels, Detail, Pixels, Pixels]]:
        """Sheets, details, and the same with two seeds."""
        size = self.editor.model.default_size
        for number in range(count):
            sheet, things = scene(self.pictures, self.random)
            found = detail(sheet, things, (16, 24, 32, 40)[number % 4], self.random)
            alone = Scaling(found.box, size, size)
            truths = [densely(self.editor, sheet, found, alone, {**self.settings, "seed": seed}) for seed in (0, 1)]
            yield sheet, found, *truths


def grid(rows: Sequence[Sequence[Pixels]], file: Path) -> None:
    """A file of small pictures in rows."""
    save_png(Image.fromarray(np.vstack([np.hstack([scaled(each, (128, 128)) for each in row]) for row in rows])), file)


def details(model: str, count: int, file: Path | None) -> dict[str, Any]:
    """Edits of details of 16 to 40 pixels on a sheet of 1024x1024, in the viewport that the planner chooses and in the
    whole sheet reduced: LPIPS over the thing that was drawn on, against the dense model with that thing alone.
    """
    bench, rows, scales = Details(model), list[Sequence[Pixels]](), list[float]()
    found: dict[str, list[float]] = {"viewport": [], "whole": [], "another_seed": []}
    for sheet, each, truth, other in bench.each(count):
        made = {"another_seed": other}
        for way, plan in (("viewport", None), ("whole", "whole")):
            canvas = bench.editor.canvas(sheet, enlarger="lanczos", **bench.settings)
            canvas.edit(each.drawn, mask=each.mask, prompt=each.name, plan=plan)
            made[way] = canvas.pixels[each.box]
            if plan is None:
                scales.append(canvas.version.facts["scale"])
            canvas.close()
        for way, pixels in made.items():
            found[way].append(apart(bench.lpips, pixels, truth))
        rows.append((each.drawn[each.box], truth, made["viewport"], made["whole"]))
    if file is not None:
        grid(rows[:6], file)
    better = np.mean(np.array(found["viewport"]) < np.array(found["whole"]))
    return {
        "details": count, **{f"lpips_{way}": float(np.mean(values)) for way, values in found.items()},
        "viewport_better": float(better), "scales": {scale: scales.count(scale) for scale in sorted(set(scales))},
    }  # fmt: skip


RATIOS = (4 / 3, 2.0, 3.0, 4.0, 5.0, 8.0)


def context(model: str, count: int, file: Path | None) -> dict[str, Any]:
    """Dense edits of the same details in viewports of several sides, each so many times as wide as the ellipse."""
    bench, rows = Details(model), list[Sequence[Pixels]]()
    size, found = bench.editor.model.default_size, dict[str, list[float]]()
    for sheet, each, *truths in bench.each(count):
        box = box_of(each.mask)
        width = box[1].stop - box[1].start
        row = [each.drawn[each.box], truths[0]]
        for ratio in (*RATIOS, sheet.shape[1] / width):
            viewport = around(box, size[1] / (ratio * width), size, (sheet.shape[0], sheet.shape[1]))
            row.append(densely(bench.editor, sheet, each, viewport, bench.settings))
            name = f"{ratio:.3g}" if ratio in RATIOS else "whole"
            values = [apart(bench.lpips, row[-1], truth) for truth in truths]
            found.setdefault(name, []).append(float(np.mean(values)))
        rows.append(row)
    if file is not None:
        grid(rows[:8], file)
    return {"details": count, **{f"lpips_{name}": float(np.mean(values)) for name, values in found.items()}}


def figure(path: Path) -> None:
    """A small stroke on a sheet of emoji, redrawn in an enlarged viewport and in the whole sheet reduced."""
    editor, names = Editor.from_pretrained("builtin/emoji"), ("grinning face", "red heart", "red apple", "sun")
    faces = [editor.generate(name, steps=12, seed=seed).image.resize((200, 200)) for seed, name in enumerate(names)]
    sheet: Pixels = np.vstack([np.hstack(faces[:2]), np.hstack(faces[2:])])
    drawn, box, close = sheet.copy(), (slice(112, 142), slice(80, 125)), (slice(60, 180), slice(40, 160))
    drawn[box] = RED
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


def peak(width: int, height: int, deep: bool) -> None:
    """Print the most memory that an edit of a picture of a size took, with a tiny model; in 16 bits with alpha."""
    bench = Bench("sd15-lcm", "float32", "fast", width, height, tiny=True)
    path = Path(f"canvas-{width}x{height}.png")
    levels = bench.picture
    if deep:
        levels = np.dstack([levels, np.full(levels.shape[:2], 255, np.uint8)]).astype(np.uint16) * 257
    Picture(levels).write(path)
    del levels
    bench.picture = np.empty((0, 0, 3), np.uint8)
    Path("/proc/self/clear_refs").write_text("5")  # of Linux: the peak counts from here
    try:
        canvas = bench.editor.canvas(path, size=bench.size, enlarger="lanczos", **bench.settings)
        for sides in ((40, 120), (16, 16)):
            box = placed(canvas.picture.size, sides, np.random.default_rng(3))
            canvas.edit(**stroke(canvas, box), plan="new")  # as many recordings, whatever the size of the picture
            canvas.undo()
        canvas.write(path)
        canvas.close()
    finally:
        path.unlink()
    status = Path("/proc/self/status").read_text()
    print(1024 * int(re.search(r"VmHWM:\s*(\d+)", status)[1]))


# Commands

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_show_locals=False)
Model = Annotated[str, typer.Option(help="A pipeline of retouch.models.pipelines.")]
Processor = Annotated[bool, typer.Option(help="Count seconds of the processor, of all threads.")]
Sides = Annotated[tuple[int, int], typer.Option(help="Width and height of the picture.")]


def clocked(processor: bool, minima: bool) -> Callable[..., float]:
    """How runs are summed up; all clocks count seconds of the processor from now on where that is asked for."""
    if processor:
        time.perf_counter = time.process_time
    return min if minima else statistics.median


@app.command()
def speed(
    model: Model = "sd15-lcm", dtype: str = "float32", policy: str = "fast", size: Sides = (4000, 3000),
    stroke_size: tuple[int, int] = (120, 40), rounds: int = 3, edits: int = 5, tiny: bool = False,
    processor: Processor = False, minima: bool = False, json_file: Json = None,
) -> None:  # fmt: skip
    """First and later edits against crop and stitch. Bars: first_over_crop 1.15, crop_over_later 12."""
    of = clocked(processor, minima)
    bench = Bench(model, dtype, policy, *size, tiny)
    told({"model": model, "dtype": dtype, "size": size, "tiny": tiny,
          **speeds(bench, (stroke_size[1], stroke_size[0]), rounds, edits, of)}, json_file)  # fmt: skip


@app.command()
def plans(
    model: Model = "sd15-lcm", dtype: str = "float32", policy: str = "fast", size: Sides = (4000, 3000),
    count: int = 60, within: float = 2.0, later: bool = True, tiny: bool = False,
    processor: Processor = False, json_file: Json = None,
) -> None:  # fmt: skip
    """Choices of the planner against the fastest candidate. Bar: planner_within_15_percent 1."""
    clocked(processor, minima=False)
    bench = Bench(model, dtype, policy, *size, tiny)
    found = choices(bench, count, within, later)
    edits = found.pop("edits")
    told({"model": model, "dtype": dtype, "size": size, "tiny": tiny, "later": later, **found})
    if json_file:
        json_file.write_text(json.dumps({**found, "edits": edits}, indent=1))


@app.command()
def memory(size: Sides = (4000, 3000), deep: bool = False, json_file: Json = None) -> None:
    """Bytes for each pixel by which a large picture takes more than a small one, all else equal. Bar: 12."""
    peaks = []
    for each in ((256, 256), size):
        command = [sys.executable, __file__, "peak", *(f"{side}" for side in each), *["--deep"] * deep]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    told({"bytes_per_pixel": (peaks[1] - peaks[0]) / (size[0] * size[1] - 256**2), "bar": PER_PIXEL}, json_file)


@app.command(name="peak", hidden=True)
def peak_of(width: int, height: int, deep: bool = False) -> None:
    """Print the most memory that edits of a picture took."""
    peak(width, height, deep)


@app.command(name="seams")
def seams_of(count: int = 9, json_file: Json = None) -> None:
    """Steps across borders. Bar: those of a canvas no higher than those of a session."""
    told(seams(count), json_file)


@app.command(name="details")
def details_of(
    model: str = "builtin/emoji-256-lcm", count: int = 12, sheet: Path | None = None, json_file: Json = None
) -> None:
    """Small details, enlarged and in the whole picture. Bar: lpips_viewport below lpips_whole."""
    told({"model": model, **details(model, count, sheet)}, json_file)


@app.command(name="context")
def context_of(
    model: str = "builtin/emoji", count: int = 12, sheet: Path | None = None, json_file: Json = None
) -> None:
    """The same in viewports of several sides: how much a model must see around what it draws."""
    told({"model": model, **context(model, count, sheet)}, json_file)


@app.command(name="figure")
def figure_of(file: Path) -> None:
    """Draw the figure of the guide."""
    figure(file)


if __name__ == "__main__":
    app()
