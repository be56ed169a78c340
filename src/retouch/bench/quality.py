"""How close incremental edits come to the dense model: many edits, several methods, the same noise.

Every method edits the same pictures. Its yardstick is the dense model with the same replacement of what is
outside the region (`session.reference`); crop and stitch is held against that of `balanced`. What an edit
costs is the time of `session.edit`, index tables of its new region included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, ClassVar, NamedTuple

import numpy as np

from retouch.bench import machine, options
from retouch.bench.crop import of_session
from retouch.bench.difference import compare, seam
from retouch.bench.harness import Progress, Suite, backend_of, timed
from retouch.bench.report import Column, Plot, Point, Result, grouped, markdown
from retouch.bench.samples import KINDS, SampleEdit, sample_edits
from retouch.editing.blend import BLENDS, DEFAULT
from retouch.editing.diffusion.denoiser import snapshot_name
from retouch.editing.diffusion.editor import Editor
from retouch.editing.diffusion.estimate import StepCheck
from retouch.editing.diffusion.session import DiffusionSession
from retouch.editing.images import Pixels, as_pixels, save_png
from retouch.editing.sheets import side_by_side
from retouch.editing.version import Edited
from retouch.errors import OptionError
from retouch.models.extras import require
from retouch.models.lpips import Lpips, trained
from retouch.plan.policy import PRESETS, Policy
from retouch.plan.region import Region

CROP = "crop and stitch"
BALANCED, FAST = PRESETS["balanced"], PRESETS["fast"]

KEPT: dict[str, dict[str, Any]] = {
    "keys recorded": {"keys_values": "recorded"},
    "keys int8": {"keys_values": "int8"},
    "keys again": {"keys_values": "recomputed"},
    "text recorded": {"text": "recorded"},
    "text every 2nd": {"text": 2},
}
"""What may become of keys and values, and of texts: each a method in the place of what `balanced` and `fast` have,
which computes the active rows alone, however long that takes.
"""


def _under(base: Policy = BALANCED, **settings: Any) -> dict[str, Any]:
    return {"policy": replace(base, **settings)}


BLENDED = {f"balanced, {name}": {**_under(), "blend": name} for name in BLENDS if name != DEFAULT}
"""Methods that set the result into the picture in another way."""

USUAL: dict[str, dict[str, Any]] = {
    **{name: _under(policy) for name, policy in PRESETS.items()},
    **BLENDED,
    "balanced, int8": {**_under(), "arithmetic": "int8"},
    CROP: _under(),
    "refreshed": _under(stats="refreshed"),
    "paper, dilate 8": _under(PRESETS["paper"], dilate=8),
    "balanced, 9 probes": _under(probes=9),
    "balanced, dilate 2": _under(dilate=2),
    "balanced, dense below 0.6": _under(dense_below=0.6),
    "refreshed, dense below 0.6": _under(stats="refreshed", dense_below=0.6),
}
"""Options of the editor by the name of the method; for crop and stitch those of the dense reference."""

METHODS = USUAL | {
    f"{base.name}, {name}": _under(base, crossover=1.0, **change)
    for base in (BALANCED, FAST)
    for name, change in KEPT.items()
}
"""All of them; those of attention are run where they are named."""

Key = tuple[int, bytes, int, str]
"""What a dense result depends on: the edit, what is replaced around it, and how it is set in."""

PICTURES = 20
PROMPTS = (
    "red apple", "grinning face", "dog face", "pizza", "tiger face", "sunflower", "octopus", "birthday cake",
    "red heart", "tropical fish", "crying face", "hamburger", "teapot", "watermelon", "panda", "pineapple", "frog",
    "strawberry", "robot", "ice cream",
)  # fmt: skip
"""What the model draws when no pictures are given."""

SUMMARY = (
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
)
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

    columns: ClassVar[Sequence[Column]] = SUMMARY

    def check(self) -> None:
        for name in self.method:
            if name not in METHODS:
                raise OptionError(f"unknown method {name!r}; choose from: {', '.join(METHODS)}")
        backend_of(self.backend)
        if self.images:
            read_pictures(self.images)
        self._weights()

    def measure(self, progress: Progress) -> Iterator[Mapping[str, Any]]:
        """Every method on every edit. Dense results are shared by the methods that replace the same."""
        progress.say("drawing pictures")
        pictures, lpips = read_pictures(self.images) if self.images else self._draw(), self._weights()
        edits = list(enumerate(sample_edits([pixels for _, pixels in pictures], self.count)))
        settings: dict[str, Any] = {"steps": self.steps, "strength": self.strength, "guidance": self.guidance}
        for name, part in progress.over(self.method or list(USUAL)):
            editor = Editor.from_pretrained(
                self.model, device="cpu", memory=8 << 30, backend=self.backend, **METHODS[name]
            )
            for (number, (prompt, pixels)), of_picture in part.over(list(enumerate(pictures))):
                of_picture.say(f"{name}: {prompt}")
                session = editor.open(pixels, prompt=prompt, **settings)
                mine, made = [each for each in edits if each[1].image == number], []
                for (index, edit), of_edit in of_picture.over(mine):
                    of_edit.say(f"{name}: {prompt}, edit {index}")
                    facts = {"model": self.model, "method": name, "prompt": prompt, "edit": index}
                    made.append((edit, *self._made(session, edit, facts)))
                yield from (self._found(session, *each, lpips) for each in made)

    def _made(self, session: DiffusionSession, edit: SampleEdit, facts: Result) -> tuple[Pixels, Result]:
        """What a method makes of an edit, and what it took; then the dense model's turn, unless that is known."""
        crops = facts["method"] == CROP
        run: Callable[..., Edited | Pixels] = partial(of_session, session) if crops else session.edit
        made, ms = timed(lambda: run(edit.pixels, mask=edit.mask))
        taken = {**facts, "kind": edit.kind, "share": edit.fraction, "seconds": ms / 1e3}
        if isinstance(made, Edited):
            session.undo()
            taken, made = {**taken, **_estimate(made)}, np.array(made.image)
        self._reference(session, facts["edit"], edit)
        return made, taken

    def _found(
        self, session: DiffusionSession, edit: SampleEdit, made: Pixels, taken: Result, lpips: Lpips | None
    ) -> Result:
        """How a method did on an edit; pictures of some are kept to be shown."""
        index, method = taken["edit"], taken["method"]
        truth, dense_s = self._reference(session, index, edit)
        work = session.nets.denoiser.explain(session.process.around(Region.from_mask(edit.mask)))
        found = {
            **taken,
            "dense_seconds": dense_s,
            "macs": work.macs_active / work.macs_dense,
            **_kept(session),
            **compare(made, truth, edit.mask, lpips),
            "seam": seam(made, session.pixels, edit.mask, session.border),
            "machine": machine.facts(),
        }
        if index < len(KINDS) and method in SHOWN:
            caption = f"{method}, {found['psnr_inside']:.0f} dB, {found['seconds'] * 1e3:.0f} ms"
            self.tiles[index, method] = caption, made
            self.tiles[index, "before"] = taken["prompt"], session.pixels
            self.tiles[index, "edited"] = f"{edit.kind}, {edit.fraction:.1%}", edit.pixels
            self.tiles.setdefault((index, "dense"), (f"dense, {dense_s * 1e3:.0f} ms", truth))
        return found

    def _reference(self, session: DiffusionSession, index: int, edit: SampleEdit) -> tuple[Pixels, float]:
        """What the dense model makes of an edit, and its seconds."""
        inside = session.latent_mask(Region.from_mask(edit.mask)).numpy().tobytes()
        key = index, inside, session.border, session.blend
        if key not in self.references:
            dense = session.reference(edit.pixels, mask=edit.mask)
            self.references[key] = np.array(dense.image), dense.seconds["total"]
        return self.references[key]

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
        dense = 1e3 * median(each["dense_seconds"] for each in results)
        caption = f"dense edit: {dense:.0f} ms; dB, SSIM and LPIPS inside the region, then over the image"
        return "Edits against the dense model (medians)", caption

    def rows(self, results: Sequence[Result]) -> Sequence[Result]:
        return summaries(results)

    def markdown_table(self, results: Sequence[Result]) -> str:
        return f"{super().markdown_table(results)}\n\n{_by_kind(results)}"

    def plots(self, results: Sequence[Result]) -> list[Plot]:
        """Error against time, from the fifth of the edits that is smallest to the largest; `exact` has time only."""
        shown = [name for name in (*PRESETS, "refreshed", CROP) if name != "exact"]
        found = curves(results, shown)
        return [Plot(found, "seconds", "error in grey levels", "xy")] if found else []

    def write_pictures(self, report: Path, results: Sequence[Result]) -> list[str]:
        """The plot, and a sheet of one edit of each kind with what methods made of it."""
        lines = super().write_pictures(report, results)
        if self.tiles:
            names = ("before", "edited", "dense", *SHOWN)
            shown = [name for name in names if any(tile == name for _, tile in self.tiles)]
            tiles = [self.tiles[index, name] for index in sorted({index for index, _ in self.tiles}) for name in shown]
            sheet = save_png(side_by_side(tiles, len(shown)), report.with_name(f"{report.stem}-edits.png"))
            lines.append(f"![one edit of each kind: before, edited, dense, and what methods make of it]({sheet.name})")
        return lines

    def notes(self, results: Sequence[Result]) -> list[str]:
        parts, lines = grouped(results, "method"), []
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


def _estimate(edited: Edited) -> Result:
    """The estimated error, and the seconds it took."""
    assert isinstance(edited.estimate, StepCheck)
    check = edited.estimate
    found, ms = timed(lambda: {"disagreement": check.disagreement, "estimate": edited.error})
    return {"estimate_seconds": ms / 1e3, **found}


def _kept(session: DiffusionSession) -> Result:
    """Bytes of one step, and of its keys and values."""
    stored = session.info()["bytes"]
    step = snapshot_name(session.process.first)
    return {"step_bytes": stored["calls"][step], "step_keys_and_values_bytes": stored["keys_and_values"][step]}


# Summaries

SIZES = 5
"""Groups of edits by their share of the picture: the points of a curve."""


def summaries(results: Sequence[Result]) -> list[Result]:
    """Of each method: medians of figures over its edits, and its worst tenth in dB inside the region."""
    found = []
    for name, part in grouped(results, "method").items():
        keys = [column.key for column in SUMMARY[1:] if column.key in part[0]]
        medians = {key: float(np.median([each[key] for each in part])) for key in keys}
        worst = float(np.quantile([each["psnr_inside"] for each in part], 0.1))
        found.append({"method": name, **medians, "worst_tenth_db": worst})
    return found


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
    return markdown(columns, rows)
