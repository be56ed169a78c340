"""How close incremental edits come to the dense model: many edits, several methods, the same noise.

Every method edits the same pictures. Its yardstick is the dense model with the same replacement of what is
outside the region (`session.reference`); crop and stitch is held against that of `balanced`. What an edit
costs is the time of `session.edit`, index tables of its new region included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, ClassVar, NamedTuple

import numpy as np
from rich.table import Table

from retouch.bench import machine, options
from retouch.bench.crop import of_session
from retouch.bench.difference import compare, seam
from retouch.bench.harness import Experiment, Progress, Suite, Variant, backend_of, chosen, timed
from retouch.bench.plots import Plot, Point
from retouch.bench.report import Column, Result, column_table, grouped, terminal_table
from retouch.bench.samples import KINDS, SampleEdit, sample_edits
from retouch.editing.blend import BLENDS, DEFAULT
from retouch.editing.diffusion.editor import Editor
from retouch.editing.diffusion.estimate import StepCheck
from retouch.editing.diffusion.session import DiffusionSession
from retouch.editing.images import Pixels, as_pixels, save_png
from retouch.editing.session import Edited
from retouch.editing.sheets import side_by_side
from retouch.errors import OptionError
from retouch.models.extras import require
from retouch.models.lpips import Lpips, trained
from retouch.plan.policy import PRESETS, Policy
from retouch.plan.region import Region

CROP = "crop and stitch"
BALANCED, FAST = PRESETS["balanced"], PRESETS["fast"]

BLENDED = {f"balanced, {name}": name for name in BLENDS if name != DEFAULT}
"""Methods that set the result into the picture in another way, and which."""

INT8 = "balanced, int8"

KEPT: dict[str, dict[str, Any]] = {
    "keys recorded": {"keys_values": "recorded"},
    "keys int8": {"keys_values": "int8"},
    "keys again": {"keys_values": "recomputed"},
    "text recorded": {"text": "recorded"},
    "text every 2nd": {"text": 2},
}
"""What may become of keys and values, and of texts: each a method in the place of what `balanced` and `fast` have, which
computes the active rows alone, however long that takes.
"""

METHODS: dict[str, Policy | None] = {
    **PRESETS,
    **dict.fromkeys(BLENDED, BALANCED),
    INT8: BALANCED,
    **{
        f"{base.name}, {name}": replace(base, crossover=1.0, **change)
        for base in (BALANCED, FAST)
        for name, change in KEPT.items()
    },
    CROP: None,
    "refreshed": replace(BALANCED, stats="refreshed"),
    "paper, dilate 8": replace(PRESETS["paper"], dilate=8),
    "balanced, 9 probes": replace(BALANCED, probes=9),
    "balanced, dilate 2": replace(BALANCED, dilate=2),
    "balanced, dense below 0.6": replace(BALANCED, dense_below=0.6),
    "refreshed, dense below 0.6": replace(BALANCED, stats="refreshed", dense_below=0.6),
}
"""Policies by the name of the method; None: crop and stitch, held against the dense reference of `balanced`."""

Key = tuple[int, bytes, int, str]

PICTURES = 20
PROMPTS = (
    "red apple", "grinning face", "dog face", "pizza", "tiger face", "sunflower", "octopus", "birthday cake",
    "red heart", "tropical fish", "crying face", "hamburger", "teapot", "watermelon", "panda", "pineapple", "frog",
    "strawberry", "robot", "ice cream",
)  # fmt: skip
"""What the model draws when no pictures are given."""

SUMMARY = [
    Column("method", "method"),
    Column("psnr_inside", "dB", "{:.1f}".format),
    Column("worst_tenth_db", "worst\ntenth", "{:.1f}".format, below=True),
    Column("ssim_inside", "SSIM", "{:.4f}".format),
    Column("lpips_inside", "LPIPS", "{:.4f}".format),
    Column("psnr", "image\ndB", "{:.1f}".format),
    Column("lpips", "image\nLPIPS", "{:.4f}".format, below=True),
    Column("seam", "seam", "{:.2f}".format),
    Column("seconds", "ms", lambda seconds: f"{seconds * 1e3:.0f}"),
    Column("macs", "GMAC\nshare", "{:.1%}".format),
]
MEDIANS = (
    "psnr_inside", "ssim_inside", "lpips_inside", "psnr", "ssim", "lpips", "seam", "seconds", "dense_seconds", "macs",
)  # fmt: skip
SHOWN = ("balanced", *BLENDED, "paper", CROP)
"""Methods whose pictures are shown."""


@dataclass(frozen=True)
class Quality(options.Quality, Suite):
    """Without `images`: what the model draws of PROMPTS. method: names of METHODS. steps, strength, guidance: of every
    edit. `tiles` and `references`: pictures that are shown, and dense results with their seconds.
    """

    steps: int = 20
    strength: float = 0.6
    guidance: float = 3.0
    lpips: bool = True
    tiles: dict[tuple[int, str], tuple[str, Pixels]] = field(default_factory=dict)
    references: dict[Key, tuple[Pixels, float]] = field(default_factory=dict)

    columns: ClassVar[Sequence[Column]] = ()

    def check(self) -> None:
        """Look methods up, and read the pictures and the weights of LPIPS."""
        chosen(self.method, METHODS, "method")
        backend_of(self.backend)
        if self.images:
            read_pictures(self.images)
        self._weights()

    def measure(self, progress: Progress) -> Iterator[Mapping[str, Any]]:
        """Every method on every edit. Dense results are shared by the methods that replace the same."""
        progress.say("drawing pictures")
        pictures, lpips = read_pictures(self.images) if self.images else self._draw(), self._weights()
        edits = sample_edits([pixels for _, pixels in pictures], self.count)
        for name, part in progress.over(self.method or list(METHODS)):
            policy = METHODS[name] or BALANCED
            options: dict[str, Any] = {"policy": policy, "blend": BLENDED.get(name), "backend": self.backend}
            options |= {"arithmetic": "int8"} if name == INT8 else {}
            editor = Editor.from_pretrained(self.model, device="cpu", memory=8 << 30, **options)
            for (number, (prompt, pixels)), of_picture in part.over(list(enumerate(pictures))):
                of_picture.say(f"{name}: {prompt}")
                session = editor.open(
                    pixels, prompt=prompt, steps=self.steps, strength=self.strength, guidance=self.guidance
                )
                mine = {index: edit for index, edit in enumerate(edits) if edit.image == number}
                yield from self._measured(session, name, prompt, mine, lpips, of_picture)

    def _measured(
        self,
        session: DiffusionSession,
        method: str,
        prompt: str,
        edits: Mapping[int, SampleEdit],
        lpips: Lpips | None,
        progress: Progress,
    ) -> Iterator[Result]:
        """One method on the edits of one picture."""
        pictures: dict[int, Pixels] = {}
        estimates: dict[int, Result] = {}

        def keep(index: int, made: Edited | Pixels) -> None:
            if isinstance(made, Edited):
                session.undo()
                estimates[index] = _estimate(made)
            pictures[index] = np.array(made.image if isinstance(made, Edited) else made)

        def variants(index: int) -> list[Variant]:
            run, edit = partial(of_session, session) if METHODS[method] is None else session.edit, edits[index]
            one = Variant("edit", lambda: run(edit.pixels, mask=edit.mask), partial(keep, index))
            return [one, *self._reference(session, index, edit)]

        experiment = Experiment(list(edits), variants, 1, warm_up=False)
        experiment.run(progress, f"{method}: {prompt}")
        for index, edit in edits.items():
            truth, dense_s = self.references[_key(session, index, edit)]
            work = session.nets.denoiser.explain(session.process.around(Region.from_mask(edit.mask)))
            result = {
                "model": self.model,
                "method": method,
                "prompt": prompt,
                "edit": index,
                "kind": edit.kind,
                "share": edit.fraction,
                "seconds": experiment.median(index, "edit") / 1e3,
                **estimates.get(index, {}),
                "dense_seconds": dense_s,
                "macs": work.macs_active / work.macs_dense,
                **asdict(compare(pictures[index], truth, edit.mask, lpips)),
                "seam": seam(pictures[index], session.pixels, edit.mask, session.border),
                "machine": machine.facts(),
            }
            if index < len(KINDS) and method in SHOWN:
                self._show(result, edit, session.pixels, truth, pictures[index])
            yield result

    def _reference(self, session: DiffusionSession, index: int, edit: SampleEdit) -> list[Variant]:
        """The dense model on an edit, unless it is known."""
        key = _key(session, index, edit)

        def keep(dense: Edited) -> None:
            self.references[key] = np.array(dense.image), dense.seconds["total"]

        reference = Variant("dense", lambda: session.reference(edit.pixels, mask=edit.mask), keep)
        return [] if key in self.references else [reference]

    def _show(self, result: Result, edit: SampleEdit, before: Pixels, truth: Pixels, picture: Pixels) -> None:
        """Take the pictures of an edit: as it was, edited, the dense result, and what the method made of it."""
        index, method = result["edit"], result["method"]
        self.tiles.setdefault((index, "before"), (result["prompt"], before))
        self.tiles.setdefault((index, "edited"), (f"{edit.kind}, {result['share']:.1%}", edit.pixels))
        self.tiles.setdefault((index, "dense"), (f"dense, {result['dense_seconds'] * 1e3:.0f} ms", truth))
        caption = f"{method}, {result['psnr_inside']:.0f} dB, {result['seconds'] * 1e3:.0f} ms"
        self.tiles[index, method] = caption, picture

    def _weights(self) -> Lpips | None:
        return trained() if self.lpips else None

    def _draw(self) -> list[tuple[str, Pixels]]:
        """Pictures that the model itself makes of the prompts."""
        editor = Editor.from_pretrained(self.model, device="cpu", policy="fast")
        return [
            (prompt, editor.generate(prompt, steps=self.steps, guidance=self.guidance, seed=seed).pixels)
            for seed, prompt in enumerate(PROMPTS)
        ]

    def heading(self, results: Sequence[Result]) -> tuple[str, str]:
        """What a dense edit takes."""
        dense = median(each["dense_seconds"] for each in results)
        return (
            "Edits against the dense model (medians)",
            f"dense edit: {dense * 1e3:.0f} ms; dB, SSIM and LPIPS inside the region, then over the image",
        )

    def tables(self, results: Sequence[Result]) -> list[Table]:
        """One row for each method."""
        title, caption = self.heading(results)
        return [terminal_table(title, SUMMARY, summaries(results), caption)]

    def markdown_table(self, results: Sequence[Result]) -> str:
        """One row for each method, and dB by kind of edit."""
        return f"{column_table(SUMMARY, summaries(results))}\n\n{_by_kind(results)}"

    def plots(self, results: Sequence[Result]) -> list[Plot]:
        """Error against time, from the fifth of the edits that is smallest to the largest; `exact` has time only."""
        shown = [name for name in (*PRESETS, "refreshed", CROP) if name != "exact"]
        found = curves(results, shown)
        return [Plot(found, "seconds", "error in grey levels", log_x=True, log_y=True)] if found else []

    def write_pictures(self, report: Path, results: Sequence[Result]) -> list[str]:
        """The plot, and a sheet of one edit of each kind with what methods made of it."""
        lines = super().write_pictures(report, results)
        if self.tiles:
            names = ("before", "edited", "dense", *SHOWN)
            shown = [name for name in names if any(tile == name for _, tile in self.tiles)]
            edits = sorted({index for index, _ in self.tiles})
            tiles = [self.tiles[index, name] for index in edits for name in shown]
            sheet = save_png(side_by_side(tiles, len(shown)), report.with_name(f"{report.stem}-edits.png"))
            lines.append(f"![one edit of each kind: before, edited, dense, and what methods make of it]({sheet.name})")
        return lines

    def notes(self, results: Sequence[Result]) -> list[str]:
        """What probes gain, and how good estimates of the error are."""
        parts, lines = grouped(results, "method"), []
        if {"balanced", "fast", "refreshed"} <= set(parts):
            gain, count = gain_of_probes(results)
            lines.append(
                "Probed statistics (`balanced`) against the better of recorded (`fast`) and refreshed ones: "
                f"{gain:+.1f} dB in the median of the {count} edits that the better one leaves below 40 dB."
            )
        for name in ("balanced", "paper"):
            known = inexact(parts.get(name, ()))
            if len(known) > 2:
                found, cost = calibrated(known), median(each["estimate_seconds"] for each in known)
                lines.append(
                    f"Error estimate of `{name}`: rank correlation {found.correlation:.2f} with the true error; best "
                    f"gain {found.gain:.1f} and floor {found.floor:.1f} grey levels, nine of ten right within a "
                    f"factor of {found.factor:.1f}; it takes {cost * 1e3:.0f} ms."
                )
        return lines


def read_pictures(folder: Path) -> list[tuple[str, Pixels]]:
    """The first PNG files of a folder, by their names as prompts. OptionError when there are fewer than two."""
    files = sorted(folder.glob("*.png"))[:PICTURES]
    if len(files) < 2:
        raise OptionError(f"{folder} holds fewer than two PNG files")
    return [(file.stem.replace("-", " "), as_pixels(file)) for file in files]


def _key(session: DiffusionSession, index: int, edit: SampleEdit) -> Key:
    """What a dense result depends on: the edit, what is replaced around it, and how it is set in."""
    inside = session.latent_mask(Region.from_mask(edit.mask)).numpy().tobytes()
    return index, inside, session.border, session.blend


def _estimate(edited: Edited) -> Result:
    """The estimated error, and the seconds it took."""
    assert isinstance(edited.estimate, StepCheck)
    check = edited.estimate
    found, ms = timed(lambda: {"disagreement": check.disagreement, "estimate": edited.error})
    return {"estimate_seconds": ms / 1e3, **found}


# Summaries

SIZES = 5
"""Groups of edits by their share of the picture: the points of a curve."""


def summaries(results: Sequence[Result]) -> list[Result]:
    """Of each method: medians over its edits, and its worst tenth in dB inside the region."""
    return [
        {
            "method": name,
            **{key: float(np.median([each[key] for each in part])) for key in MEDIANS},
            "worst_tenth_db": float(np.quantile([each["psnr_inside"] for each in part], 0.1)),
        }
        for name, part in grouped(results, "method").items()
    ]


def gain_of_probes(results: Sequence[Result], limit: float = 40.0) -> tuple[float, int]:
    """Median dB that probed statistics gain over the better of recorded ones (`fast`) and refreshed ones, edit by
    edit, and the number of edits: those below `limit` dB with the better one.
    """
    psnr = {name: {r["edit"]: r["psnr_inside"] for r in part} for name, part in grouped(results, "method").items()}
    better = {i: max(value, psnr["refreshed"][i]) for i, value in psnr["fast"].items()}
    gains = [psnr["balanced"][i] - value for i, value in better.items() if value < limit]
    return (float(np.median(gains)) if gains else float("nan")), len(gains)


def rms_error(result: Result) -> float:
    """Root mean square difference inside the region in grey levels, from the PSNR."""
    return float(255 * 10 ** (-result["psnr_inside"] / 20))


class Calibration(NamedTuple):
    """How the error estimate fits results: gain and floor that fit best, the rank correlation (Spearman) of
    estimates and errors, and the factor within which nine of ten estimates with that gain and floor are right.
    """

    gain: float
    floor: float
    correlation: float
    factor: float


STEPS = np.geomspace(0.1, 10, 93)
"""Gains and floors that are tried, 5 % apart."""


def calibrated(results: Sequence[Result]) -> Calibration:
    """The error estimate against the errors, of the edits that have one."""
    known = inexact(results)
    seen = np.array([each["disagreement"] for each in known])
    true = np.array([rms_error(each) for each in known])
    guessed = np.hypot(STEPS[:, None, None] * seen, STEPS[:, None])
    missed = np.abs(np.log(guessed) - np.log(true))
    gain, floor = np.unravel_index(missed.mean(-1).argmin(), missed.shape[:2])
    factor = float(np.exp(np.quantile(missed[gain, floor], 0.9)))
    correlation = float(require("scipy.stats", "bench").spearmanr(seen, true).statistic)
    return Calibration(float(STEPS[gain]), float(STEPS[floor]), correlation, factor)


def inexact(results: Sequence[Result]) -> list[Result]:
    """The results of edits whose estimate can be judged: they have one, and an error."""
    return [each for each in results if each.get("disagreement") is not None and each["psnr_inside"] < 99]


def curves(results: Sequence[Result], methods: Sequence[str]) -> dict[str, list[Point]]:
    """Median seconds and median root mean square error of each method, from small edits to large ones."""
    found = {}
    for name, part in grouped([each for each in results if each["method"] in methods], "method").items():
        ordered = sorted(part, key=lambda each: each["share"])
        groups = filter(len, np.array_split(np.array(ordered), SIZES))
        found[name] = [
            (median(each["seconds"] for each in group), max(median(map(rms_error, group)), 1e-3)) for group in groups
        ]
    return found


def _by_kind(results: Sequence[Result]) -> str:
    """A table of median dB inside the region by kind of edit."""
    kinds = [kind for kind in KINDS if any(each["kind"] == kind for each in results)]
    rows = [
        {
            "method": name,
            **{k: median(r["psnr_inside"] for r in of_kind) for k, of_kind in grouped(part, "kind").items()},
        }
        for name, part in grouped(results, "method").items()
    ]
    columns = [Column("method", "dB by kind"), *(Column(kind, kind, "{:.1f}".format) for kind in kinds)]
    return column_table(columns, rows)
