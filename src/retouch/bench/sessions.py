"""Editing sessions end to end: recording, edits, and what they replace, on pipelines with random weights.

The yardstick is `session.reference`, the dense pipeline under the same replacement of everything outside the
region. Beside it stand plain image to image, and crop and stitch. Since weights are random, errors say how
far two methods agree and nothing about pictures.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch

from retouch.bench import machine, options
from retouch.bench.crop import of_session, redrawn
from retouch.bench.dense import CHANNELS_LAST, dense_runs, to_channels_last
from retouch.bench.difference import inside_and_image
from retouch.bench.edits import Edit, edits_of, painted, soft_picture
from retouch.bench.harness import RESTLESS, Experiment, Progress, Suite, Variant, backend_of, busy, timed
from retouch.bench.report import Column, Result, times
from retouch.editing.diffusion.editor import Editor
from retouch.editing.diffusion.session import DiffusionSession
from retouch.editing.images import Pixels
from retouch.editing.version import Edited
from retouch.incremental import Incremental
from retouch.models import Inputs, pipelines
from retouch.models.pipelines import Pipeline
from retouch.plan.region import Mask, Region

MIN_UPDATES = 3
FIRST_STROKE, SECOND_STROKE = (214, 40, 57), (32, 92, 190)
SAME_WORK = ("dense", "img2img", "crop")
NETWORK_PARTS = ("encode", "denoise", "decode")
METHODS = ("update", "crop", "img2img", "nothing")


def _seconds(milliseconds: float) -> str:
    return f"{milliseconds / 1e3:.3g}" if milliseconds < 1e5 else f"{milliseconds / 1e3:.0f}"


def break_even(record: float, update: float, dense: float) -> int | None:
    """The smallest number of edits at which recording first and then updating is quicker than dense runs.

    None: it never is.
    """
    return math.floor(record / (dense - update)) + 1 if update < dense else None


def _pays(row: Mapping[str, Any]) -> int | None:
    return break_even(row["record_ms"], row["update_ms"], row["dense_ms"])


@dataclass(frozen=True)
class Sessions(options.Sessions, Suite):
    """memory: in bytes. repeat: rounds of dense runs and edits; each session is recorded once."""

    title: ClassVar[str] = "Editing sessions (medians, seconds)"
    caption: ClassVar[str] = "dB: PSNR in the mask against dense with the same replacement; random weights"
    columns: ClassVar[Sequence[Column]] = (
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
        Column("break_even", "pays\nafter", str, _pays, none="never"),
        Column("unevenness", value=lambda row: busy([row["spread"][name] for name in SAME_WORK])),
        Column("session_bytes", "kept", options.size_text),
        Column("update_psnr_db", "dB update", "{:.1f}".format, none="equal"),
        Column("crop_psnr_db", "dB crop", "{:.1f}".format, below=True, none="equal"),
        Column("update_outside_unchanged", "outside", lambda same: "" if same else "changed!", below=True),
    )

    def check(self) -> None:
        backend_of(self.backend)
        for name in self.model:
            self.edits(pipelines.get(name))

    def edits(self, pipeline: Pipeline) -> list[Edit]:
        """The edits of a pipeline's pictures."""
        return edits_of(self.edit, self.mask, pipeline.image_size(self.tiny))

    def measure(self, progress: Progress) -> Iterator[Mapping[str, Any]]:
        """Every pipeline with every number of steps and every edit, of strength 1, so that all steps run."""
        for name, of_pipeline in progress.over(self.model):
            of_pipeline.say(f"{name}: building, compiling, choosing the dense layout")
            pipeline = pipelines.get(name)
            editor = self._editor(pipeline)
            size = pipeline.image_size(self.tiny)
            nets, compile_ms = timed(lambda: _networks(editor, pipeline, size))  # noqa: B023 - called at once
            layouts = {net: _best_layout(module) for net, module in nets.items()}
            facts = {
                "model": name,
                **{asked: getattr(self, asked) for asked in ("tiny", "policy", "storage", "backend", "repeat")},
                "image": list(size),
                "dtype": str(editor.model.dtype).removeprefix("torch."),
                "machine": machine.facts(),
                "dense_kinds": {net: min(layout, key=layout.__getitem__) for net, layout in layouts.items()},
                "dense_layouts_ms": layouts,
                "dense_compiled_ms": None,
                "compile_s": compile_ms / 1e3,
            }
            for steps, part in of_pipeline.over(self.steps or pipeline.steps):
                title = f"{name}, {steps} steps"
                part.say(f"{title}: recording")
                recorded = Recorded(editor, soft_picture(size), pipeline.settings(steps), self.edits(pipeline))
                recorded.run(self.repeat, part, title)
                for case in recorded.cases:
                    yield {**facts, "steps": steps, **recorded.facts(case)}
                del recorded, case

    def _editor(self, pipeline: Pipeline) -> Editor:
        pipe = pipeline.build(self.tiny).to(getattr(torch, self.dtype))
        return Editor(pipe, policy=self.policy, backend=self.backend, memory=self.memory, storage=self.storage)

    def notes(self, results: Sequence[Result]) -> list[str]:
        uneven = any(each["unevenness"] > RESTLESS for each in results)
        return ["Dense, img2img and crop do the same work and differ: a busy machine, measure again"] * uneven


def _networks(editor: Editor, pipeline: Pipeline, size: tuple[int, int]) -> Mapping[str, Incremental]:
    conditioning = editor.model.condition(pipeline.prompt, None, pipeline.guidance, size)
    return editor.model.networks(size, conditioning).named()


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


class Case:
    """One edit in a session: what is painted, pictures and seconds by part that come of it, and facts of its version.

    Made by editing for the first time, before dense runs add their memory.
    """

    def __init__(self, session: DiffusionSession, edit: Edit, memory: machine.PeakMemory) -> None:
        self.edit, self.mask = edit, edit.mask.numpy()
        self.edited = painted(session.pixels, self.mask, FIRST_STROKE)
        self.parts: dict[str, list[Mapping[str, float]]] = defaultdict(list)
        self.pictures: dict[str, Pixels] = {}
        self.version: Mapping[str, Any] = {}
        with memory:
            _, self.first_ms = timed(lambda: session.edit(self.edited, mask=self.mask))
        session.undo()

    def keep(self, name: str, made: Edited | Pixels) -> None:
        """A picture, and what it took."""
        self.pictures[name] = np.array(made.image if isinstance(made, Edited) else made)
        if isinstance(made, Edited):
            self.parts[name].append(made.seconds)


class Recorded:
    """A session as it was recorded, and what its edits take."""

    def __init__(self, editor: Editor, picture: Pixels, settings: Mapping[str, Any], edits: Sequence[Edit]) -> None:
        self._memory = machine.PeakMemory()
        with self._memory:
            self.session, self._ms = timed(lambda: editor.open(picture, **settings))
        self._bytes = self.session.info()["bytes"]
        self.cases = [Case(self.session, edit, self._memory) for edit in edits]

    def run(self, rounds: int, progress: Progress, title: str) -> None:
        """All rounds; comparing the layouts warmed the dense modules up."""
        self._updates = math.ceil(max(MIN_UPDATES, rounds) / rounds)
        self._experiment = Experiment(self.cases, self._variants, rounds, warm_up=False)
        self._experiment.run(progress, title)

    def _variants(self, case: Case) -> list[Variant]:
        """Dense runs; the edit, undone and made again several times; then another one on top; all undone."""
        session, edited, mask = self.session, case.edited, case.mask

        def keep_update(made: Edited) -> None:
            case.keep("update", made)
            case.version = session.info()["versions"][session.position]
            session.undo()

        update = Variant("update", lambda: session.edit(edited, mask=mask), keep_update)
        return [
            Variant("dense", lambda: session.reference(edited, mask=mask), partial(case.keep, "dense")),
            Variant("img2img", lambda: redrawn(session, edited), partial(case.keep, "img2img")),
            Variant("crop", lambda: of_session(session, edited, mask), partial(case.keep, "crop")),
            *[update] * self._updates,
            self._on_top(moved(mask)),
        ]

    def _on_top(self, mask: Mask) -> Variant:
        """Another edit on the redone one, both undone."""
        session, drawn = self.session, list[Pixels]()

        def redo() -> None:
            session.redo()
            drawn.append(painted(session.pixels, mask, SECOND_STROKE))

        def undo(_: Edited) -> None:
            session.undo()
            session.undo()

        return Variant("next_update", lambda: session.edit(drawn[-1], mask=mask), undo, redo)

    def facts(self, case: Case) -> Result:
        """Times, sizes and errors of an edit."""
        names, stored = (*SAME_WORK, "update", "next_update"), self._bytes
        step = next(name for name in stored["calls"] if name.startswith("step-"))
        return {
            "edit": case.edit.fraction,
            "edit_label": case.edit.label,
            **{f"{name}_ms": self._experiment.median(case, name) for name in names},
            "record_ms": self._ms,
            "first_update_ms": case.first_ms,
            **{f"{name}_parts_ms": _parts(case.parts[name]) for name in ("dense", "update")},
            "outside_networks": statistics.median(outside_networks(run) for run in case.parts["update"]),
            "spread": self._experiment.spread(case, *names),
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
            **self._errors(case),
        }

    def _errors(self, case: Case) -> Result:
        """Every method against the dense reference, and "nothing", which is the picture before the edit."""
        original = self.session.pixels
        grown = Region.from_mask(case.mask).dilated(self.session.border).mask[0]
        pictures = {"nothing": original, **case.pictures}
        found: Result = {}
        for name in METHODS:
            found |= inside_and_image(name, pictures[name], pictures["dense"], case.mask, mean_abs_err=np.mean)
        for name, pixels in case.pictures.items():
            found[f"{name}_outside_unchanged"] = bool((pixels[~grown] == original[~grown]).all())
        return found


def _parts(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Medians in ms, by part."""
    return {name: 1e3 * statistics.median(run[name] for run in runs) for name in runs[0]}


def outside_networks(seconds: Mapping[str, float]) -> float:
    """Share of an edit that no network call took. Those read rows from snapshots and write layers, too."""
    return 1 - sum(seconds.get(name, 0.0) for name in NETWORK_PARTS) / seconds["total"]
