"""Editing sessions end to end: recording, edits, and what they replace, on pipelines with random weights.

The yardstick is `session.reference`, the dense pipeline under the same replacement of everything outside the
region. Beside it stand plain image to image, and crop and stitch. Since weights are random, errors say how
far two methods agree and nothing about pictures.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.table import Table

from retouch.bench import machine
from retouch.bench.crop import crop_and_stitch
from retouch.bench.dense import CHANNELS_LAST, dense_runs
from retouch.bench.edits import Edit
from retouch.bench.measure import Result, Tick
from retouch.bench.memory import Resident
from retouch.bench.report import compact_table, size_text
from retouch.bench.timing import Stopwatch
from retouch.editing.diffusion.editor import GUIDANCE, Editor
from retouch.editing.diffusion.session import DiffusionSession
from retouch.editing.images import Pixels
from retouch.editing.session import Edited
from retouch.incremental import Incremental
from retouch.models import Inputs, pipelines
from retouch.models.pipelines import PIPELINES, Pipeline
from retouch.plan.region import Mask, Region

__all__ = ["PIPELINES", "SessionOptions", "break_even", "measure_sessions", "session_table"]

PHASES = ("dense", "image to image", "crop and stitch", "edits")
MIN_UPDATES = 3
FIRST_STROKE, SECOND_STROKE = (214, 40, 57), (32, 92, 190)
SAME_WORK = ("dense", "img2img", "crop")
RESTLESS = 1.5
NETWORK_PARTS = ("encode", "denoise", "decode")


@dataclass(frozen=True)
class SessionOptions:
    """What to measure. `edits` makes the edits for an image size (H, W) in pixels.

    memory: bytes that recordings may take before they go to files; None: what `Editor` takes by itself.
    repeat: rounds of dense runs and edits; each session is recorded once.
    """

    edits: Callable[[tuple[int, int]], Sequence[Edit]]
    models: Sequence[str] = ("ddpm-256",)
    steps: Sequence[int] = (10, 20, 50)
    policy: str = "fast"
    storage: str = "fp32"
    memory: int | None = None
    backend: str = "auto"
    repeat: int = 1
    tiny: bool = False

    @property
    def ticks(self) -> int:
        """How often `tick` will be called."""
        edits = sum(len(self.edits(pipelines.get(name).image_size(self.tiny))) for name in self.models)
        sessions = len(self.steps)
        return len(self.models) * (2 + sessions) + edits * sessions * self.repeat * len(PHASES)


@dataclass
class Bench:
    """One pipeline with its networks compiled, and how long the dense layouts of each network took."""

    options: SessionOptions
    pipeline: Pipeline
    editor: Editor
    picture: Pixels
    compile_s: float
    layouts: Mapping[str, Mapping[str, float]]


@dataclass
class Recorded:
    """A session as it was recorded, before any edit."""

    session: DiffusionSession
    watch: Stopwatch
    memory: Resident
    info: Mapping[str, Any]


@dataclass
class Case:
    """One edit in a session: times, seconds by part, the pictures that came of it, facts of its version."""

    edit: Edit
    edited: Pixels
    watch: Stopwatch = field(default_factory=Stopwatch)
    parts: dict[str, list[Mapping[str, float]]] = field(default_factory=lambda: defaultdict(list))
    pictures: dict[str, Pixels] = field(default_factory=dict)
    version: Mapping[str, Any] = field(default_factory=dict)

    @property
    def mask(self) -> Mask:
        """bool [H, W]."""
        found: Mask = self.edit.mask.numpy()
        return found


def measure_sessions(options: SessionOptions, tick: Tick = lambda text: None) -> Iterator[Result]:
    """Measure every pipeline with every number of steps and every edit; yields a result for each.

    `tick` is told what comes next. Edits have strength 1, so that all steps run.
    """
    for name in options.models:
        yield from _measure_pipeline(options, pipelines.get(name), tick)
        gc.collect()


def break_even(record: float, update: float, dense: float) -> int | None:
    """The smallest number of edits at which recording first and then updating is quicker than dense runs.

    None: it never is.
    """
    return math.floor(record / (dense - update)) + 1 if update < dense else None


def _measure_pipeline(options: SessionOptions, pipeline: Pipeline, tick: Tick) -> Iterator[Result]:
    tick(f"{pipeline.name}: building and compiling")
    bench = _bench(options, pipeline, tick)
    for steps in options.steps:
        tick(f"{pipeline.name}, {steps} steps: recording")
        recorded = _record(bench, steps)
        for edit in options.edits(pipeline.image_size(options.tiny)):
            case = Case(edit, painted(bench.picture, edit.mask.numpy(), FIRST_STROKE))
            _first_edit(recorded, case)
            _rounds(bench, recorded, case, tick)
            yield _result(bench, recorded, case)
        del recorded
        gc.collect()


def _bench(options: SessionOptions, pipeline: Pipeline, tick: Tick) -> Bench:
    pipe = pipeline.build(options.tiny)
    editor = Editor(
        pipe, policy=options.policy, backend=options.backend, memory=options.memory, storage=options.storage
    )
    size = pipeline.image_size(options.tiny)
    start = time.perf_counter()
    words = editor.model.condition(pipeline.prompt, None, GUIDANCE, size)
    nets = editor.model.networks(size, words).named()
    compile_s = time.perf_counter() - start
    tick(f"{pipeline.name}: choosing the dense layout")
    layouts = {name: _best_layout(net) for name, net in nets.items()}
    return Bench(options, pipeline, editor, _picture(size), compile_s, layouts)


def _best_layout(net: Incremental) -> dict[str, float]:
    """Milliseconds of a dense run in each layout of the weights; the module then has the best one."""
    named = dict(net.signature.example[1])
    image = named.pop(next(iter(named)))
    watch = Stopwatch()
    for kind, run in dense_runs(net.module, Inputs((image,), named), compiled=False).items():
        run()
        watch.run(kind, run)
    if _best(watch.first) == CHANNELS_LAST:
        net.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        net.weights.refresh()
    return watch.first


def _best(times: Mapping[str, float]) -> str:
    return min(times, key=lambda kind: times[kind])


def _picture(size: tuple[int, int]) -> Pixels:
    """A smooth picture of `size` (H, W), always the same."""
    colours = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    return np.array(Image.fromarray(colours).resize(size[::-1], Image.Resampling.BICUBIC))


def painted(pixels: Pixels, mask: Mask, colour: tuple[int, int, int]) -> Pixels:
    """A copy with a stroke of one colour on `mask`."""
    return np.where(mask[..., None], np.array(colour, np.uint8), pixels)


def moved(mask: Mask) -> Mask:
    """`mask` moved half of the way to the lower right corner; another place for the same edit."""
    height, width = mask.shape
    down, right = (n - 1 - int(np.flatnonzero(mask.any(1 - axis))[-1]) for axis, n in enumerate((height, width)))
    return np.roll(mask, (down // 2, right // 2), (0, 1))


# Runs


def _record(bench: Bench, steps: int) -> Recorded:
    watch, memory = Stopwatch(), Resident()
    open_session = partial(
        bench.editor.open, bench.picture, prompt=bench.pipeline.prompt, guidance=GUIDANCE, strength=1.0, steps=steps
    )
    with memory:
        session = watch.run("record", open_session)
    return Recorded(session, watch, memory, session.info())


def _rounds(bench: Bench, recorded: Recorded, case: Case, tick: Tick) -> None:
    runs = (_dense, _image_to_image, _crop, _edits)
    case.watch.on = True
    for number in range(bench.options.repeat):
        for phase, run in zip(PHASES, runs, strict=True):
            rounds = f", round {number + 1} of {bench.options.repeat}" if bench.options.repeat > 1 else ""
            steps = recorded.session.settings["steps"]
            tick(f"{bench.pipeline.name}, {steps} steps, edit {case.edit.label}: {phase}{rounds}")
            run(bench, recorded, case)


def _dense(bench: Bench, recorded: Recorded, case: Case) -> None:
    reference = partial(recorded.session.reference, case.edited, mask=case.mask)
    _keep(case, "dense", case.watch.run("dense", reference))


def _image_to_image(bench: Bench, recorded: Recorded, case: Case) -> None:
    case.pictures["img2img"] = case.watch.run("img2img", partial(redrawn, recorded.session, case.edited))


def _crop(bench: Bench, recorded: Recorded, case: Case) -> None:
    session = recorded.session
    redraw = partial(redrawn, session)
    stitch = partial(crop_and_stitch, case.edited, session.pixels, case.mask, session.size, session.border, redraw)
    case.pictures["crop"] = case.watch.run("crop", stitch)


def redrawn(session: DiffusionSession, pixels: Pixels) -> Pixels:
    """Dense image to image from the session's noise: with nothing outside the region, nothing is replaced."""
    everything = np.ones(session.size, np.bool_)
    return np.array(session.reference(pixels, mask=everything).image)


def _edits(bench: Bench, recorded: Recorded, case: Case) -> None:
    """The edit, undone and made again several times, then another one on top; all undone."""
    session = recorded.session
    for _ in range(math.ceil(max(MIN_UPDATES, bench.options.repeat) / bench.options.repeat)):
        _keep(case, "update", _update(session, case))
        case.version = session.info()["versions"][session.position]
        session.undo()
    session.redo()
    mask = moved(case.mask)
    twice = painted(session.pixels, mask, SECOND_STROKE)
    case.watch.run("next_update", lambda: session.edit(twice, mask=mask))
    session.undo()
    session.undo()


def _first_edit(recorded: Recorded, case: Case) -> None:
    """The edit for the first time, and its memory before dense runs add theirs."""
    case.watch.on = False
    with recorded.memory:
        _update(recorded.session, case)
    recorded.session.undo()


def _update(session: DiffusionSession, case: Case) -> Edited:
    return case.watch.run("update", lambda: session.edit(case.edited, mask=case.mask))


def _keep(case: Case, name: str, edited: Edited) -> None:
    case.pictures[name] = np.array(edited.image)
    case.parts[name].append(edited.seconds)


# Results


def _result(bench: Bench, recorded: Recorded, case: Case) -> Result:
    options, session = bench.options, recorded.session
    return {
        "model": bench.pipeline.name,
        "tiny": options.tiny,
        "image": list(session.size),
        "steps": session.settings["steps"],
        "edit": case.edit.fraction,
        "edit_label": case.edit.label,
        "policy": options.policy,
        "dtype": str(session.model.dtype).removeprefix("torch."),
        "storage": options.storage,
        "backend": options.backend,
        "repeat": options.repeat,
        **_times(bench, recorded, case),
        **_sizes(recorded, case),
        **_errors(session, case),
        "machine": machine.facts(),
    }


def _times(bench: Bench, recorded: Recorded, case: Case) -> Result:
    watch = case.watch
    dense, update, record = watch.median("dense"), watch.median("update"), recorded.watch.first["record"]
    return {
        "dense_ms": dense,
        "dense_kinds": {name: _best(times) for name, times in bench.layouts.items()},
        "dense_layouts_ms": bench.layouts,
        "dense_compiled_ms": None,
        "img2img_ms": watch.median("img2img"),
        "crop_ms": watch.median("crop"),
        "record_ms": record,
        "record_over_dense": record / dense,
        "first_update_ms": watch.first["update"],
        "update_ms": update,
        "next_update_ms": watch.median("next_update"),
        "speedup": dense / update,
        "break_even": break_even(record, update, dense),
        "dense_parts_ms": _parts(case.parts["dense"]),
        "update_parts_ms": _parts(case.parts["update"]),
        "outside_networks": statistics.median(outside_networks(run) for run in case.parts["update"]),
        "compile_s": bench.compile_s,
        "spread": {name: watch.spread(name) for name in (*SAME_WORK, "update", "next_update")},
        "unevenness": unevenness([watch.spread(name) for name in SAME_WORK]),
    }


def unevenness(spreads: Sequence[Mapping[str, float]]) -> float:
    """Longest over shortest time of runs that do the same work: far above 1 on a busy machine."""
    return max(each["max"] for each in spreads) / min(each["min"] for each in spreads)


def _parts(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Medians in ms, by part."""
    return {name: 1e3 * statistics.median(run[name] for run in runs) for name in runs[0]}


def outside_networks(seconds: Mapping[str, float]) -> float:
    """Share of an edit that no network call took. Those read rows from snapshots and write layers, too."""
    return 1 - sum(seconds.get(name, 0.0) for name in NETWORK_PARTS) / seconds["total"]


def _sizes(recorded: Recorded, case: Case) -> Result:
    stored, memory = recorded.info["bytes"], recorded.memory
    steps = [name for name in stored["calls"] if name.startswith("step-")]
    return {
        "session_bytes": stored["total"],
        "session_memory_bytes": stored["memory"],
        "session_file_bytes": stored["temporary_files"],
        "step_bytes": stored["calls"][steps[0]],
        "step_keys_and_values_bytes": stored["keys_and_values"][steps[0]],
        "edit_bytes": case.version["bytes"],
        "edit_read_bytes": case.version["bytes_read"],
        "packed_bytes": sum(net.packed_bytes for net in recorded.session.networks().values()),
        "peak_anon_bytes": memory.peak_anon,
        "peak_file_bytes": memory.peak_file,
    }


def _errors(session: DiffusionSession, case: Case) -> Result:
    """Every method against the dense reference, and "nothing", which is the picture before the edit."""
    original = session.pixels
    grown = Region.from_mask(case.mask).dilated(session.border).mask[0]
    pictures = {"nothing": original, **case.pictures}
    found: Result = {}
    for name in ("update", "crop", "img2img", "nothing"):
        found |= compare(name, pictures[name], pictures["dense"], case.mask)
    for name, pixels in case.pictures.items():
        found[f"{name}_outside_unchanged"] = bool((pixels[~grown] == original[~grown]).all())
    return found


def compare(name: str, pixels: Pixels, truth: Pixels, mask: Mask) -> Result:
    """PSNR and mean absolute difference in levels of 0 to 255, in `mask` and over the image.

    PSNR is None for equal pixels.
    """
    error = np.abs(pixels.astype(np.float64) - truth)
    return {
        f"{name}_psnr_db": psnr(error[mask]),
        f"{name}_psnr_image_db": psnr(error),
        f"{name}_mean_abs_err": float(error[mask].mean()),
        f"{name}_mean_abs_err_image": float(error.mean()),
    }


def psnr(error: np.ndarray[Any, np.dtype[np.float64]]) -> float | None:
    """Peak signal to noise ratio in dB of differences in levels of 0 to 255; None when there are none."""
    square = float((error**2).mean())
    return 10 * math.log10(255**2 / square) if square else None


# Table

_TITLES = (
    "dense",
    "img2img\ncrop",
    "record",
    "update\nnext",
    "speed-\nup",
    "pays\nafter",
    "kept",
    "dB update\ndB crop",
)


def session_table(results: Sequence[Result]) -> Table:
    """One row for each result, 80 columns wide; times in seconds."""
    titles = ("pipeline\nsteps, edit", *_TITLES)
    made = compact_table("Editing sessions (medians, seconds)", titles, map(_row, results))
    made.caption = "dB: PSNR in the mask against dense with the same replacement; random weights"
    if any(each["unevenness"] > RESTLESS for each in results):
        made.caption += "\nDense, img2img and crop do the same work and differ: a busy machine, measure again"
    return made


def _row(result: Result) -> list[str]:
    even = result["break_even"]
    outside = "" if result["update_outside_unchanged"] else "\noutside\nchanged!"
    return [
        f"{result['model']}\n{result['steps']}, {result['edit_label']}",
        f"{_seconds(result['dense_ms'])}\n{result['dense_kinds']['denoiser'].removeprefix('channels_')}",
        f"{_seconds(result['img2img_ms'])}\n{_seconds(result['crop_ms'])}",
        f"{_seconds(result['record_ms'])}\n{result['record_over_dense']:.2f}x",
        f"{_seconds(result['update_ms'])}\n{_seconds(result['next_update_ms'])}",
        f"{result['speedup']:.1f}x",
        "never" if even is None else str(even),
        size_text(result["session_bytes"]),
        f"{_decibels(result['update_psnr_db'])}\n{_decibels(result['crop_psnr_db'])}{outside}",
    ]


def _seconds(milliseconds: float) -> str:
    return f"{milliseconds / 1e3:.3g}" if milliseconds < 1e5 else f"{milliseconds / 1e3:.0f}"


def _decibels(value: float | None) -> str:
    return "equal" if value is None else f"{value:.1f}"
