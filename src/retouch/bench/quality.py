"""How close incremental edits come to the dense model: many edits, several methods, the same noise.

Every method edits the same pictures. Its yardstick is the dense model with the same replacement of what is
outside the region (`session.reference`); crop and stitch is held against that of `balanced`. What an edit
costs is the time of `session.edit`, index tables of its new region included.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from statistics import correlation, median

import numpy as np
from PIL import Image
from rich.table import Table

from retouch.bench import machine
from retouch.bench.crop import crop_and_stitch
from retouch.bench.measure import Result, Tick
from retouch.bench.perceptual import Perceptual, compare
from retouch.bench.plot import line_plot
from retouch.bench.report import compact_table
from retouch.bench.samples import KINDS, SampleEdit, sample_edits
from retouch.bench.sessions import redrawn
from retouch.editing.diffusion.editor import Editor
from retouch.editing.diffusion.estimate import StepCheck
from retouch.editing.diffusion.session import DiffusionSession
from retouch.editing.images import Pixels
from retouch.editing.sheets import side_by_side
from retouch.plan.policy import PRESETS, Policy
from retouch.plan.region import Region

CROP = "crop and stitch"
BALANCED = PRESETS["balanced"]

METHODS: dict[str, Policy | None] = {
    **PRESETS,
    CROP: None,
    "refreshed": replace(BALANCED, stats="refreshed"),
    "paper, dilate 8": replace(PRESETS["paper"], dilate=8),
    "balanced, 9 probes": replace(BALANCED, probes=9),
    "balanced, dilate 2": replace(BALANCED, dilate=2),
    "balanced, dense below 0.6": replace(BALANCED, dense_below=0.6),
    "refreshed, dense below 0.6": replace(BALANCED, stats="refreshed", dense_below=0.6),
}
"""Policies by the name of the method; None: crop and stitch."""

YARDSTICK = "balanced"
"""The method whose dense reference crop and stitch is held against."""


@dataclass(frozen=True)
class QualityOptions:
    """What to measure.

    pictures: by their prompts; edits are spread over them. count: number of edits. methods: names of METHODS.
    steps, strength, guidance: of every edit.
    """

    model: str
    pictures: Sequence[tuple[str, Pixels]]
    count: int = 100
    methods: Sequence[str] = tuple(METHODS)
    steps: int = 20
    strength: float = 0.6
    guidance: float = 3.0
    backend: str = "auto"
    lpips: bool = True

    def __post_init__(self) -> None:
        unknown = [name for name in self.methods if name not in METHODS]
        if unknown:
            raise ValueError(f"unknown method {unknown[0]!r}; there are {', '.join(METHODS)}")

    @property
    def ticks(self) -> int:
        """How often `tick` will be called."""
        return len(self.methods) * len(self.pictures)


@dataclass
class Gallery:
    """Pictures of one edit of each kind: as it was, edited, the dense result, and what some methods make of it."""

    methods: tuple[str, ...] = ("balanced", "paper", CROP)
    tiles: dict[tuple[int, str], tuple[str, Pixels]] = field(default_factory=dict)

    def add(self, index: int, edit: SampleEdit, before: Pixels, truth: Pixels, result: Result, picture: Pixels) -> None:
        """Take the pictures of an edit that is shown."""
        method = result["method"]
        if index >= len(KINDS) or method not in self.methods:
            return
        self.tiles.setdefault((index, "before"), (result["prompt"], before))
        self.tiles.setdefault((index, "edited"), (f"{edit.kind}, {result['share']:.1%}", edit.pixels))
        self.tiles.setdefault((index, "dense"), (f"dense, {result['dense_seconds'] * 1e3:.0f} ms", truth))
        caption = f"{method}, {result['psnr_inside']:.0f} dB, {result['seconds'] * 1e3:.0f} ms"
        self.tiles[index, method] = caption, picture

    def sheet(self) -> Image.Image:
        """One row for each edit. ImageError when no method is shown."""
        names = ("before", "edited", "dense", *self.methods)
        shown = [name for name in names if any(tile == name for _, tile in self.tiles)]
        edits = sorted({index for index, _ in self.tiles})
        return side_by_side([self.tiles[index, name] for index in edits for name in shown], len(shown))


@dataclass
class _Bench:
    options: QualityOptions
    edits: Sequence[SampleEdit]
    perceptual: Perceptual | None
    gallery: Gallery
    references: dict[tuple[int, bytes, int], tuple[Pixels, float]] = field(default_factory=dict)

    def of_picture(self, number: int) -> list[tuple[int, SampleEdit]]:
        return [(i, edit) for i, edit in enumerate(self.edits) if edit.image == number]


def measure_quality(
    options: QualityOptions, tick: Tick = lambda text: None, gallery: Gallery | None = None
) -> Iterator[Result]:
    """Measure every method on every edit; yields a result for each. `tick` is told what comes next; `gallery`
    collects pictures.
    """
    edits = sample_edits([pixels for _, pixels in options.pictures], options.count)
    bench = _Bench(options, edits, Perceptual() if options.lpips else None, gallery or Gallery())
    for name in options.methods:
        policy = METHODS[name]
        editor = Editor.from_pretrained(
            options.model, device="cpu", policy=policy or METHODS[YARDSTICK], backend=options.backend, memory=8 << 30
        )
        for number, (prompt, pixels) in enumerate(options.pictures):
            tick(f"{name}: {prompt}")
            session = editor.open(
                pixels, prompt=prompt, steps=options.steps, strength=options.strength, guidance=options.guidance
            )
            run = _cropped if policy is None else _updated
            for index, edit in bench.of_picture(number):
                yield _result(
                    bench, session, {"model": options.model, "method": name, "prompt": prompt}, index, edit, run
                )


Run = Callable[[DiffusionSession, SampleEdit], tuple[Pixels, Result]]


def _updated(session: DiffusionSession, edit: SampleEdit) -> tuple[Pixels, Result]:
    edited = session.edit(edit.pixels, mask=edit.mask)
    session.undo()
    assert isinstance(edited.estimate, StepCheck)
    start = time.perf_counter()
    found = {"disagreement": edited.estimate.disagreement, "estimate": edited.error}
    checked = time.perf_counter() - start
    return np.array(edited.image), {"seconds": edited.seconds["total"], "estimate_seconds": checked, **found}


def _cropped(session: DiffusionSession, edit: SampleEdit) -> tuple[Pixels, Result]:
    start = time.perf_counter()
    redraw = partial(redrawn, session)
    pixels = crop_and_stitch(edit.pixels, session.pixels, edit.mask, session.size, session.border, redraw)
    return pixels, {"seconds": time.perf_counter() - start}


def _result(bench: _Bench, session: DiffusionSession, about: Result, index: int, edit: SampleEdit, run: Run) -> Result:
    picture, found = run(session, edit)
    truth, dense_s = _reference(bench, session, index, edit)
    result = {
        **about,
        "edit": index,
        "kind": edit.kind,
        "share": float(edit.mask.mean()),
        **found,
        "dense_seconds": dense_s,
        "macs": _macs(session, edit),
        **asdict(compare(picture, truth, edit.mask, bench.perceptual)),
        "machine": machine.facts(),
    }
    bench.gallery.add(index, edit, session.pixels, truth, result, picture)
    return result


def _reference(bench: _Bench, session: DiffusionSession, index: int, edit: SampleEdit) -> tuple[Pixels, float]:
    """What the dense model makes of an edit, and the seconds; once for all methods that replace the same."""
    inside = session.latent_mask(Region.from_mask(edit.mask)).numpy().tobytes()
    key = (index, inside, session.border)
    if key not in bench.references:
        dense = session.reference(edit.pixels, mask=edit.mask)
        bench.references[key] = np.array(dense.image), dense.seconds["total"]
    return bench.references[key]


def _macs(session: DiffusionSession, edit: SampleEdit) -> float:
    """Share of the denoiser's dense arithmetic that an update computes."""
    found = session.nets.denoiser.explain(Region.from_mask(edit.mask))
    return found.macs_active / found.macs_dense


# Summaries

SIZES = 5
"""Groups of edits by their share of the picture: the points of a curve."""


def by_method(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results of each method, in the order of the edits."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result["method"], []).append(result)
    return found


def summary(results: Sequence[Result]) -> Result:
    """Medians over the edits of one method, and its worst tenth in dB inside the region."""
    inside = np.array([each["psnr_inside"] for each in results])
    return {
        **{key: float(np.median([each[key] for each in results])) for key in MEDIANS},
        "worst_tenth_db": float(np.quantile(inside, 0.1)),
    }


MEDIANS = (
    *("psnr_inside", "ssim_inside", "lpips_inside", "psnr", "ssim", "lpips"),
    *("seconds", "dense_seconds", "macs"),
)


def gain_of_probes(results: Sequence[Result], limit: float = 40.0) -> tuple[float, int]:
    """Median dB that probed statistics gain over the better of recorded ones (`fast`) and refreshed ones, edit by
    edit, and the number of edits: those below `limit` dB with the better one.
    """
    psnr = {name: {r["edit"]: r["psnr_inside"] for r in part} for name, part in by_method(results).items()}
    better = {i: max(value, psnr["refreshed"][i]) for i, value in psnr["fast"].items()}
    gains = [psnr["balanced"][i] - value for i, value in better.items() if value < limit]
    return (float(np.median(gains)) if gains else float("nan")), len(gains)


def rms_error(result: Result) -> float:
    """Root mean square difference inside the region in grey levels, from the PSNR."""
    return float(255 * 10 ** (-result["psnr_inside"] / 20))


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's: the correlation of the ranks."""
    return correlation(*(np.argsort(np.argsort(each)).tolist() for each in (x, y)))


@dataclass(frozen=True)
class Calibration:
    """How the error estimate fits results: gain and floor that fit best, the rank correlation of estimates and
    errors, and the factor within which nine of ten estimates with that gain and floor are right.
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
    correlated = rank_correlation(seen.tolist(), true.tolist())
    return Calibration(float(STEPS[gain]), float(STEPS[floor]), correlated, factor)


def inexact(results: Sequence[Result]) -> list[Result]:
    """The results of edits whose estimate can be judged: they have one, and an error."""
    return [each for each in results if each.get("disagreement") is not None and each["psnr_inside"] < 99]


def curves(results: Sequence[Result], methods: Sequence[str]) -> dict[str, list[tuple[float, float]]]:
    """Median seconds and median root mean square error of each method, from small edits to large ones."""
    found = {}
    for name, part in by_method(results).items():
        if name in methods:
            ordered = sorted(part, key=lambda each: each["share"])
            groups = [[ordered[i] for i in places] for places in np.array_split(np.arange(len(ordered)), SIZES)]
            found[name] = [
                (median(g["seconds"] for g in group), max(median(map(rms_error, group)), 1e-3))
                for group in groups
                if group
            ]
    return found


def quality_table(results: Sequence[Result]) -> Table:
    """One row for each method, 80 columns wide."""
    titles = ("method", "dB", "worst\ntenth", "SSIM", "LPIPS", "image\ndB", "image\nLPIPS", "ms", "GMAC\nshare")
    rows = ((name, *_figures(summary(part))) for name, part in by_method(results).items())
    made = compact_table("Edits against the dense model (medians)", titles, rows)
    dense = median(each["dense_seconds"] for each in results)
    made.caption = f"dense edit: {dense * 1e3:.0f} ms; dB, SSIM and LPIPS inside the region, then over the image"
    return made


def _figures(found: Result) -> list[str]:
    return [
        f"{found['psnr_inside']:.1f}",
        f"{found['worst_tenth_db']:.1f}",
        f"{found['ssim_inside']:.4f}",
        f"{found['lpips_inside']:.4f}",
        f"{found['psnr']:.1f}",
        f"{found['lpips']:.4f}",
        f"{found['seconds'] * 1e3:.0f}",
        f"{found['macs']:.1%}",
    ]


def markdown(results: Sequence[Result], command: str, plot: str, sheet: str | None) -> str:
    """The report as Markdown, with the plot and the sheet of pictures of these file names (None: no sheet)."""
    parts = by_method(results)
    first = results[0]
    lines = [
        "# Quality",
        "",
        f"`{command}`: {len(next(iter(parts.values())))} edits of {first['model']}, each against the dense model with "
        "the same noise and the same replacement outside its region. dB (PSNR), SSIM and LPIPS inside the region, "
        "then over the image; medians, and the worst tenth of the dB. A dense edit takes "
        f"{median(r['dense_seconds'] for r in results) * 1e3:.0f} ms.",
        "",
        "| method | dB | worst tenth | SSIM | LPIPS | image dB | image LPIPS | ms | arithmetic |",
        "|---|---|---|---|---|---|---|---|---|",
        *(f"| {name} | {' | '.join(_figures(summary(part)))} |" for name, part in parts.items()),
        "",
        f"![error against time]({plot})",
        "",
        "Median error against median time, from the fifth of the edits that is smallest to the one that is largest.",
        "",
        *_by_kind(parts),
    ]
    if sheet:
        lines += ["", f"![one edit of each kind: before, edited, dense, and what methods make of it]({sheet})"]
    if {"balanced", "fast", "refreshed"} <= set(parts):
        gain, count = gain_of_probes(results)
        lines += ["", f"Probed statistics (`balanced`) against the better of recorded (`fast`) and refreshed ones: "
                  f"{gain:+.1f} dB in the median of the "
                  f"{count} edits that the better one leaves below 40 dB."]  # fmt: skip
    for name in ("balanced", "paper"):
        known = inexact(parts.get(name, ()))
        if len(known) > 2:
            found = calibrated(known)
            cost = median(each["estimate_seconds"] for each in known)
            lines += ["", f"Error estimate of `{name}`: rank correlation {found.correlation:.2f} with the true error; "
                      f"best gain {found.gain:.1f} and floor {found.floor:.1f} grey levels, nine of ten right within a "
                      f"factor of {found.factor:.1f}; it takes {cost * 1e3:.0f} ms."]  # fmt: skip
    return "\n".join(lines) + "\n"


def _by_kind(parts: dict[str, list[Result]]) -> list[str]:
    """A table of median dB inside the region by kind of edit."""
    kinds = list(dict.fromkeys(each["kind"] for part in parts.values() for each in part))
    lines = [f"| dB by kind | {' | '.join(kinds)} |", "|---" * (len(kinds) + 1) + "|"]
    for name, part in parts.items():
        shown = [f"{median(r['psnr_inside'] for r in part if r['kind'] == kind):.1f}" for kind in kinds]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return lines


def quality_plot(results: Sequence[Result]) -> Image.Image:
    """Error against time of the presets, the statistics, and crop and stitch; `exact` has its own time only."""
    shown = [name for name in (*PRESETS, "refreshed", CROP) if name != "exact"]
    return line_plot(curves(results, shown), "seconds", "error in grey levels", log_x=True, log_y=True, size=(900, 460))
