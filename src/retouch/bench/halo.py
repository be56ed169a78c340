"""Error and time of an update against its halo, for super-resolution with trained weights on a photograph.

The halo is the number of pixels around an edit that are computed anew (`Policy.dilate`). A network that sees
further around each pixel than that makes an error, which grows smaller as the halo and the time of an update
grow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from rich.table import Table
from torch import Tensor

import retouch
from retouch.bench import machine
from retouch.bench.dense import dense_runs, run_dense
from retouch.bench.measure import Result, Tick
from retouch.bench.plot import Point, line_plot
from retouch.bench.report import compact_table
from retouch.bench.sessions import psnr
from retouch.bench.timing import Stopwatch
from retouch.editing.gan.upscaler import PRETRAINED, Upscaler
from retouch.editing.images import Pixels
from retouch.models import Inputs
from retouch.models.extras import require
from retouch.models.super_resolution import SCALE
from retouch.plan.policy import Policy
from retouch.plan.region import Mask, Region

HALOS = (0, 1, 2, 3, 5, 8, 12, 16, 24, 32, 48)
SHARE = 0.012
"""Share of the picture that the pasted patch covers; the stroke covers about as much."""

LEAST, MOST = 32, 512
"""Sides of the photograph in pixels."""

STROKE = (30, 96, 210)


@dataclass(frozen=True)
class HaloOptions:
    """What to measure. `model`: a key of PRETRAINED; `side`: of the square photograph in pixels.

    The constructor raises ValueError for a model without trained weights and for a side beyond LEAST and MOST.
    """

    model: str = "builtin/realesrgan-x4"
    halos: Sequence[int] = HALOS
    policy: str = "balanced"
    backend: str = "auto"
    side: int = 256
    compile_dense: bool = True
    repeat: int = 3

    def __post_init__(self) -> None:
        if self.model not in PRETRAINED:
            raise ValueError(f"there are no trained weights of {self.model!r}; choose from: {', '.join(PRETRAINED)}")
        if not LEAST <= self.side <= MOST:
            raise ValueError(f"a photograph of {self.side} pixels is not {LEAST} to {MOST} pixels wide")
        if Policy.named(self.policy).exact:
            raise ValueError(f"the policy {self.policy} has no halo: it follows what the network sees")

    @property
    def ticks(self) -> int:
        """How often `tick` will be called: for building, compilation and each round."""
        return 3 + self.repeat


@dataclass(frozen=True, eq=False)
class Drawn:
    """An edit on the photograph: its name, the edited picture [H, W, 3] and where it differs [H, W]."""

    name: str
    pixels: Pixels
    mask: Mask


@dataclass(eq=False)
class _Case:
    """One edit with what a dense run makes of it, and the updates with each halo."""

    edit: Drawn
    inputs: Inputs
    truth: Tensor
    updated: dict[int, Tensor] = field(default_factory=dict)
    watch: Stopwatch = field(default_factory=Stopwatch)


@dataclass(eq=False)
class _Bench:
    """What the rounds run."""

    options: HaloOptions
    net: Any
    inputs: Inputs
    dense: Mapping[str, Callable[[], Tensor]]
    cases: Sequence[_Case]
    before: Tensor
    watch: Stopwatch


def photograph(side: int) -> Pixels:
    """The middle of scikit-image's astronaut (NASA, public domain), a face, [side, side, 3] in its own pixels.

    Raises ImportError naming the extra to install if scikit-image is missing.
    """
    pixels: Pixels = require("skimage.data", "demo").astronaut()
    top, left = max(0, 120 - side // 2), min(MOST - side, max(0, 224 - side // 2))
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])


def drawn_edits(photo: Pixels) -> list[Drawn]:
    """A brush stroke, and a patch of the picture pasted elsewhere."""
    side = len(photo)
    canvas = Image.fromarray(photo)
    stroke = [(side * (0.32 + 0.36 * t), side * (0.60 + 0.05 * np.sin(7 * t))) for t in np.linspace(0, 1, 40)]
    ImageDraw.Draw(canvas).line(stroke, STROKE, max(1, round(side * 0.028)), "curve")
    patch, size = photo.copy(), round(side * SHARE**0.5)
    (from_y, from_x), (y, x) = ((round(side * part) for part in place) for place in ((0.75, 0.70), (0.35, 0.42)))
    patch[y : y + size, x : x + size] = photo[from_y : from_y + size, from_x : from_x + size]
    named = {"stroke": np.array(canvas), "patch": patch}
    return [Drawn(name, pixels, (pixels != photo).any(2)) for name, pixels in named.items()]


def measure_halo(options: HaloOptions, tick: Tick = lambda text: None) -> Iterator[Result]:
    """Measure both edits with every halo; yields a result for each.

    `tick` is told what comes next. All halos update one recording, each in every round, beside the dense runs
    and a recording; the first round warms up and is not counted.
    """
    tick(f"{options.model}: building")
    module = Upscaler.from_pretrained(options.model, device="cpu").module
    photo = photograph(options.side)
    inputs = _inputs(photo)
    tick(f"{options.model}: compiling")
    start = time.perf_counter()
    # The halos are drawn into the masks, so that one recording serves them all.
    policy = replace(Policy.named(options.policy), dilate=0)
    net = retouch.compile(module, inputs.args, policy=policy, backend=options.backend)
    compile_s = time.perf_counter() - start
    dense = dense_runs(module, inputs, options.compile_dense)
    edited = [(edit, _inputs(edit.pixels)) for edit in drawn_edits(photo)]
    cases = [_Case(edit, each, run_dense(module, each)) for edit, each in edited]
    bench = _Bench(options, net, inputs, dense, cases, run_dense(module, inputs), Stopwatch())
    for number in range(options.repeat + 1):
        tick(f"{options.model}: {f'round {number} of {options.repeat}' if number else 'warming up'}")
        _round(bench, number > 0)
    for case in bench.cases:
        for halo in options.halos:
            yield {**_result(bench, case, halo), "compile_s": compile_s, "machine": machine.facts()}


def _inputs(pixels: Pixels) -> Inputs:
    return Inputs((torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255,))


def _round(bench: _Bench, counted: bool) -> None:
    for watch in (bench.watch, *(case.watch for case in bench.cases)):
        watch.on = counted
    for kind, run in bench.dense.items():
        bench.watch.run(kind, run)
    _, recording = bench.watch.run("record", lambda: bench.net.record(*bench.inputs.args))
    for case in bench.cases:
        for halo in bench.options.halos:
            # The first touches fresh memory for what it replaces; the last takes over that of the first.
            for name in ("first", "second", "update"):
                result = case.watch.run(f"{name}, {halo}", _updating(bench, recording, case, halo))
                recording.undo()
            case.updated[halo] = result


def _updating(bench: _Bench, recording: Any, case: _Case, halo: int) -> Callable[[], Tensor]:
    def update() -> Tensor:
        result: Tensor = bench.net.update(recording, _region(case.edit, halo), *case.inputs.args)
        return result

    return update


def _region(edit: Drawn, halo: int) -> Region:
    return Region(edit.mask[None]).dilated(halo)


# Results


def _result(bench: _Bench, case: _Case, halo: int) -> Result:
    options, region = bench.options, _region(case.edit, halo)
    info = bench.net.explain(region)
    dense = {kind: bench.watch.median(kind) for kind in bench.dense}
    kind = min(dense, key=lambda each: dense[each])
    update = case.watch.median(f"update, {halo}")
    spread = {name: bench.watch.spread(name) for name in (*dense, "record")}
    return {
        "model": options.model,
        "image": [options.side, options.side],
        "edit": float(case.edit.mask.mean()),
        "edit_label": case.edit.name,
        "policy": options.policy,
        "halo": halo,
        "backend": options.backend,
        "dense_ms": dense[kind],
        "dense_kind": kind,
        **{f"dense_{each}_ms": ms for each, ms in dense.items()},
        "record_ms": bench.watch.median("record"),
        "update_ms": update,
        "first_update_ms": case.watch.median(f"first, {halo}"),
        "speedup": dense[kind] / update,
        "spread": {**spread, "update": case.watch.spread(f"update, {halo}")},
        "macs_dense": int(info.macs_dense),
        "macs_active": int(info.macs_active),
        "kept_bytes": int(info.kept_bytes),
        **errors("update", case.updated[halo], case.truth, case.edit.mask),
        **errors("nothing", bench.before, case.truth, case.edit.mask),
    }


def errors(name: str, picture: Tensor, truth: Tensor, mask: Mask) -> Result:
    """PSNR and largest error in levels of 0 to 255 under `mask` [H, W], and over the picture [1, 3, 4H, 4W].

    Both are clamped to [0, 1], not rounded. PSNR is None where they are equal.
    """
    found, wanted = (each[0].double().clamp(0, 1).numpy() * 255 for each in (picture, truth))
    error = np.abs(found - wanted)
    inside = error[:, mask.repeat(SCALE, 0).repeat(SCALE, 1)]
    return {
        f"{name}_psnr_db": psnr(inside),
        f"{name}_max_err": float(inside.max()),
        f"{name}_psnr_image_db": psnr(error),
        f"{name}_max_err_image": float(error.max()),
    }


def halo_table(results: Sequence[Result]) -> Table:
    """One row for each result, 80 columns wide."""
    first = results[0]
    titles = ("edit", "halo", "update", "speed-\nup", "GMAC", "edit\ndB", "edit\nmost", "image\ndB", "image\nmost")
    made = compact_table(f"{first['model']}, {first['policy']}: error against halo", titles, map(_row, results))
    made.caption = (
        f"dense: {first['dense_ms']:.0f} ms ({first['dense_kind']}), {first['macs_dense'] / 1e9:.0f} GMAC; "
        f"record: {first['record_ms']:.0f} ms\n"
        "dB: PSNR against dense\n"
        "most: largest difference in levels of 0 to 255"
    )
    return made


def _row(result: Result) -> list[str]:
    names = ("update_psnr_db", "update_max_err", "update_psnr_image_db", "update_max_err_image")
    return [
        f"{result['edit_label']}, {result['edit']:.1%}",
        str(result["halo"]),
        f"{result['update_ms']:.0f} ms",
        f"{result['speedup']:.1f}x",
        f"{result['macs_active'] / 1e9:.1f}",
        *("equal" if result[name] is None else f"{result[name]:.3g}" for name in names),
    ]


def halo_plot(results: Sequence[Result]) -> Image.Image:
    """Two plots beside each other: the error against the halo, and against the time of an update."""
    title = f"{results[0]['model']}, {results[0]['policy']}"
    label = "PSNR against dense, dB"
    plots = [
        line_plot(_curves(results, lambda each: each["halo"]), "halo, pixels", label, title=title),
        line_plot(_curves(results, lambda each: each["update_ms"]), "update, ms", label, title=title, log_x=True),
    ]
    sheet = Image.new("RGB", (sum(plot.width for plot in plots), plots[0].height), "white")
    for place, plot in enumerate(plots):
        sheet.paste(plot, (place * plots[0].width, 0))
    return sheet


def _curves(results: Sequence[Result], x: Callable[[Result], float]) -> dict[str, list[Point]]:
    """PSNR in the edit and over the picture, for each edit; where an update is equal there is no point."""
    found: dict[str, list[Point]] = {}
    for key, where in (("update_psnr_db", "the edit"), ("update_psnr_image_db", "the picture")):
        for each in results:
            if each[key] is not None:
                found.setdefault(f"{each['edit_label']}, {where}", []).append((x(each), each[key]))
    return found
