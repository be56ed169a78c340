"""Editing sessions end to end: recording, edits, and what they replace, on pipelines with random weights.

The yardstick is `session.reference`, the dense pipeline under the same replacement of everything outside the
region. Beside it stand plain image to image, and crop and stitch. Since weights are random, errors say how
far two methods agree and nothing about pictures.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch

from retouch.bench import machine, options
from retouch.bench.crop import of_session, redrawn
from retouch.bench.dense import CHANNELS_LAST, dense_runs, to_channels_last
from retouch.bench.difference import inside_and_image
from retouch.bench.edits import Edit, edits_of, painted, soft_picture
from retouch.bench.harness import RESTLESS, Experiment, Progress, Suite, Variant, backend_of, busy, chosen, timed
from retouch.bench.report import Column, Result, decibels, size_text, times
from retouch.editing.diffusion.editor import Editor
from retouch.editing.images import Pixels
from retouch.editing.session import Edited
from retouch.incremental import Incremental
from retouch.models import Inputs, pipelines
from retouch.models.pipelines import Pipeline
from retouch.plan.policy import PRESETS
from retouch.plan.region import Mask, Region

MIN_UPDATES = 3
FIRST_STROKE, SECOND_STROKE = (214, 40, 57), (32, 92, 190)
SAME_WORK = ("dense", "img2img", "crop")
NETWORK_PARTS = ("encode", "denoise", "decode")
METHODS = ("update", "crop", "img2img", "nothing")
T = TypeVar("T")


def _seconds(milliseconds: float) -> str:
    return f"{milliseconds / 1e3:.3g}" if milliseconds < 1e5 else f"{milliseconds / 1e3:.0f}"


def break_even(record: float, update: float, dense: float) -> int | None:
    """The smallest number of edits at which recording first and then updating is quicker than dense runs.

    None: it never is.
    """
    return math.floor(record / (dense - update)) + 1 if update < dense else None


COLUMNS = [
    Column("model", "pipeline"),
    Column("", "steps, edit", value=lambda row: f"{row['steps']}, {row['edit_label']}", below=True),
    Column("dense_ms", "dense", _seconds),
    Column("dense_kinds", "kind", lambda kinds: kinds["denoiser"].removeprefix("channels_"), below=True),
    Column("img2img_ms", "img2img", _seconds),
    Column("crop_ms", "crop", _seconds, below=True),
    Column("record_ms", "record", _seconds),
    Column("record_over_dense", "/ dense", times, lambda row: row["record_ms"] / row["dense_ms"], below=True),
    Column("update_ms", "update", _seconds),
    Column("next_update_ms", "next", _seconds, below=True),
    Column("speedup", "speed-\nup", times, lambda row: row["dense_ms"] / row["update_ms"]),
    Column(
        "break_even",
        "pays\nafter",
        lambda edits: "never" if edits is None else str(edits),
        lambda row: break_even(row["record_ms"], row["update_ms"], row["dense_ms"]),
    ),
    Column("unevenness", value=lambda row: busy([row["spread"][name] for name in SAME_WORK])),
    Column("session_bytes", "kept", size_text),
    Column("update_psnr_db", "dB update", decibels),
    Column("crop_psnr_db", "dB crop", decibels, below=True),
    Column("update_outside_unchanged", "outside", lambda same: "" if same else "changed!", below=True),
]


@dataclass(frozen=True)
class Sessions(options.Sessions, Suite):
    """memory: in bytes. repeat: rounds of dense runs and edits; each session is recorded once."""

    columns: ClassVar[Sequence[Column]] = COLUMNS

    def check(self) -> None:
        """Look everything up by its name, and read every mask."""
        chosen([self.policy], PRESETS, "policy")
        backend_of(self.backend)
        for name in chosen(self.model, pipelines.PIPELINES, "pipeline"):
            self.edits(pipelines.get(name))

    def edits(self, pipeline: Pipeline) -> list[Edit]:
        """The edits of a pipeline's pictures."""
        return edits_of(self.edit, self.mask, pipeline.image_size(self.tiny))

    def measure(self, progress: Progress) -> Iterator[Mapping[str, Any]]:
        """Every pipeline with every number of steps and every edit, of strength 1, so that all steps run."""
        for name, of_pipeline in progress.over(self.model):
            of_pipeline.say(f"{name}: building, compiling, choosing the dense layout")
            bench = Bench(self, pipelines.get(name))
            for steps, part in of_pipeline.over(self.steps or bench.pipeline.steps):
                part.say(f"{name}, {steps} steps: recording")
                recorded = Recorded(bench, steps)
                recorded.run(part)
                for case in recorded.cases:
                    yield {**bench.facts(), "steps": steps, **recorded.facts(case)}
                del recorded, case

    def heading(self, results: Sequence[Result]) -> tuple[str, str]:
        """The yardstick."""
        return (
            "Editing sessions (medians, seconds)",
            "dB: PSNR in the mask against dense with the same replacement; random weights",
        )

    def notes(self, results: Sequence[Result]) -> list[str]:
        """A busy machine."""
        uneven = any(each["unevenness"] > RESTLESS for each in results)
        return ["Dense, img2img and crop do the same work and differ: a busy machine, measure again"] * uneven


class Bench:
    """One pipeline with its networks compiled, the picture, and how long the dense layouts of each network took."""

    def __init__(self, options: Sessions, pipeline: Pipeline) -> None:
        self.options, self.pipeline = options, pipeline
        self.picture = soft_picture(pipeline.image_size(options.tiny))
        pipe = pipeline.build(options.tiny).to(getattr(torch, options.dtype))
        self.editor = Editor(
            pipe, policy=options.policy, backend=options.backend, memory=options.memory, storage=options.storage
        )
        nets, self._compile_ms = timed(self._networks)
        self.layouts = {name: _best_layout(net) for name, net in nets.items()}

    def _networks(self) -> Mapping[str, Incremental]:
        size = self.picture.shape[0], self.picture.shape[1]
        conditioning = self.editor.model.condition(self.pipeline.prompt, None, self.pipeline.guidance, size)
        return self.editor.model.networks(size, conditioning).named()

    def facts(self) -> Result:
        """What is measured and where, compiling, and the dense layouts."""
        asked = ("tiny", "policy", "storage", "backend", "repeat")
        return {
            "model": self.pipeline.name,
            **{name: getattr(self.options, name) for name in asked},
            "image": list(self.picture.shape[:2]),
            "dtype": str(self.editor.model.dtype).removeprefix("torch."),
            "machine": machine.facts(),
            "dense_kinds": {name: min(layout, key=layout.__getitem__) for name, layout in self.layouts.items()},
            "dense_layouts_ms": self.layouts,
            "dense_compiled_ms": None,
            "compile_s": self._compile_ms / 1e3,
        }


def _best_layout(net: Incremental) -> dict[str, float]:
    """Milliseconds of a dense run in each layout of the weights; the module then has the best one."""
    named = dict(net.signature.example[1])
    image = named.pop(next(iter(named)))
    runs = dense_runs(net.module, Inputs((image,), named), compiled=False)
    for run in runs.values():
        run()  # warms up
    found = {kind: timed(run)[1] for kind, run in runs.items()}
    if found.get(CHANNELS_LAST) == min(found.values()):
        to_channels_last(net.module)
        net.weights.refresh()
    return found


def moved(mask: Mask) -> Mask:
    """`mask` moved half of the way to the lower right corner; another place for the same edit."""
    height, width = mask.shape
    down, right = (n - 1 - int(np.flatnonzero(mask.any(1 - axis))[-1]) for axis, n in enumerate((height, width)))
    return np.roll(mask, (down // 2, right // 2), (0, 1))


@dataclass(eq=False)
class Case:
    """One edit in a session: the edited picture, seconds by part, pictures that came of it, facts of its version."""

    edit: Edit
    edited: Pixels
    first_ms: float
    parts: dict[str, list[Mapping[str, float]]]
    pictures: dict[str, Pixels]
    version: Mapping[str, Any]

    @property
    def mask(self) -> Mask:
        """bool [H, W]."""
        found: Mask = self.edit.mask.numpy()
        return found


class Recorded:
    """A session as it was recorded, and what its edits take."""

    def __init__(self, bench: Bench, steps: int) -> None:
        self._bench, self._rounds = bench, bench.options.repeat
        self._memory = machine.PeakMemory()
        settings = bench.pipeline.settings(steps)
        self.session, self._ms = self._watched(lambda: bench.editor.open(bench.picture, **settings))
        self._info = self.session.info()
        self.cases = [self._first(edit) for edit in bench.options.edits(bench.pipeline)]

    def _watched(self, call: Callable[[], T]) -> tuple[T, float]:
        """What a call gives, its milliseconds, and its memory."""
        with self._memory:
            return timed(call)

    def _first(self, edit: Edit) -> Case:
        """An edit for the first time, before dense runs add their memory."""
        mask = edit.mask.numpy()
        edited = painted(self._bench.picture, mask, FIRST_STROKE)
        _, ms = self._watched(lambda: self.session.edit(edited, mask=mask))
        self.session.undo()
        return Case(edit, edited, ms, defaultdict(list), {}, {})

    def run(self, progress: Progress) -> None:
        """All rounds; comparing the layouts warmed the dense modules up."""
        self._experiment = Experiment(self.cases, self._variants, self._rounds, warm_up=False)
        steps = self.session.settings["steps"]
        self._experiment.run(progress, f"{self._bench.pipeline.name}, {steps} steps")

    def _variants(self, case: Case) -> list[Variant]:
        """Dense runs; the edit, undone and made again several times; then another one on top; all undone."""
        session, mask = self.session, case.mask

        def keep(name: str, edited: Edited) -> None:
            case.pictures[name] = np.array(edited.image)
            case.parts[name].append(edited.seconds)

        def keep_update(edited: Edited) -> None:
            keep("update", edited)
            case.version = session.info()["versions"][session.position]
            session.undo()

        update = Variant("update", lambda: session.edit(case.edited, mask=mask), keep_update)
        return [
            Variant("dense", lambda: session.reference(case.edited, mask=mask), partial(keep, "dense")),
            Variant("img2img", lambda: redrawn(session, case.edited), partial(case.pictures.__setitem__, "img2img")),
            Variant("crop", lambda: of_session(session, case.edited, mask), partial(case.pictures.__setitem__, "crop")),
            *[update] * math.ceil(max(MIN_UPDATES, self._rounds) / self._rounds),
            self._on_top(moved(mask)),
        ]

    def _on_top(self, mask: Mask) -> Variant:
        """Another edit on the redone one, both undone."""
        session, drawn = self.session, [self._bench.picture]

        def redo() -> None:
            session.redo()
            drawn[0] = painted(session.pixels, mask, SECOND_STROKE)

        def undo(_: Edited) -> None:
            session.undo()
            session.undo()

        return Variant("next_update", lambda: session.edit(drawn[0], mask=mask), undo, redo)

    def facts(self, case: Case) -> Result:
        """Times, sizes and errors of an edit."""
        names = (*SAME_WORK, "update", "next_update")
        return {
            "edit": case.edit.fraction,
            "edit_label": case.edit.label,
            **{f"{name}_ms": self._experiment.median(case, name) for name in names},
            "record_ms": self._ms,
            "first_update_ms": case.first_ms,
            **{f"{name}_parts_ms": _parts(case.parts[name]) for name in ("dense", "update")},
            "outside_networks": statistics.median(outside_networks(run) for run in case.parts["update"]),
            "spread": self._experiment.spread(case, *names),
            **self._sizes(case),
            **self._errors(case),
        }

    def _sizes(self, case: Case) -> Result:
        stored = self._info["bytes"]
        step = next(name for name in stored["calls"] if name.startswith("step-"))
        return {
            "session_bytes": stored["total"],
            "session_memory_bytes": stored["memory"],
            "session_file_bytes": stored["temporary_files"],
            "step_bytes": stored["calls"][step],
            "step_keys_and_values_bytes": stored["keys_and_values"][step],
            "edit_bytes": case.version["bytes"],
            "edit_read_bytes": case.version["bytes_read"],
            "packed_bytes": sum(net.packed_bytes for net in self.session.networks().values()),
            "peak_anon_bytes": self._memory.anon,
            "peak_file_bytes": self._memory.file,
        }

    def _errors(self, case: Case) -> Result:
        """Every method against the dense reference, and "nothing", which is the picture before the edit."""
        original = self.session.pixels
        grown = Region.from_mask(case.mask).dilated(self.session.border).mask[0]
        pictures = {"nothing": original, **case.pictures}
        found: Result = {}
        for name in METHODS:
            found |= compare(name, pictures[name], pictures["dense"], case.mask)
        for name, pixels in case.pictures.items():
            found[f"{name}_outside_unchanged"] = bool((pixels[~grown] == original[~grown]).all())
        return found


def _parts(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Medians in ms, by part."""
    return {name: 1e3 * statistics.median(run[name] for run in runs) for name in runs[0]}


def outside_networks(seconds: Mapping[str, float]) -> float:
    """Share of an edit that no network call took. Those read rows from snapshots and write layers, too."""
    return 1 - sum(seconds.get(name, 0.0) for name in NETWORK_PARTS) / seconds["total"]


def compare(name: str, pixels: Pixels, truth: Pixels, mask: Mask) -> Result:
    """PSNR and mean absolute difference in levels of 0 to 255, in `mask` and over the image.

    PSNR is None for equal pixels.
    """
    error = np.abs(pixels.astype(np.float64) - truth)
    return inside_and_image(name, error, mask, mean_abs_err=lambda part: float(part.mean()))
