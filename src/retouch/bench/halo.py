"""Error and time of an update against its halo, for super-resolution with trained weights on a photograph.

The halo is the number of pixels around an edit that are computed anew (`Policy.dilate`). A network that sees
further around each pixel than that makes an error, which grows smaller as the halo and the time of an update
grow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from retouch.bench import options
from retouch.bench.dense import dense_runs, run_dense
from retouch.bench.difference import inside_and_image
from retouch.bench.edits import Edit, brushed, pasted, photograph
from retouch.bench.harness import Progress, Suite, backend_of
from retouch.bench.report import Column, Plot, Point, Result, times
from retouch.bench.trial import Case, Trial
from retouch.editing.gan.upscaler import PRETRAINED, Upscaler
from retouch.editing.images import Pixels
from retouch.errors import OptionError
from retouch.models import Inputs
from retouch.models.super_resolution import SCALE
from retouch.plan.policy import Policy
from retouch.plan.region import Mask

SHARE = 0.012
"""Share of the picture that the pasted patch covers; the stroke covers about as much."""
STROKE = (30, 96, 210)
THREE = "{:.3g}".format


def drawn_edits(photo: Pixels) -> dict[str, Pixels]:
    """The photograph with a brush stroke, and with a patch of it pasted elsewhere."""
    side, size = len(photo), round(len(photo) * SHARE**0.5)
    source, target = ((round(side * y), round(side * x)) for y, x in ((0.75, 0.70), (0.35, 0.42)))

    def wave(t: float) -> tuple[float, float]:
        return 0.32 + 0.36 * t, 0.60 + 0.05 * np.sin(7 * t)

    return {"stroke": brushed(photo, wave, STROKE, side * 0.028), "patch": pasted(photo, source, target, (size, size))}


@dataclass(frozen=True)
class Halo(options.Halo, Suite):
    """`model`: a key of PRETRAINED; `dilate`: the halos; `side`: of the photograph in pixels."""

    columns: ClassVar[Sequence[Column]] = (
        Column("", "edit", value=lambda row: f"{row['edit_label']}, {row['edit']:.1%}"),
        Column("halo", "halo"),
        Column("update_ms", "update", "{:.0f} ms".format),
        Column("speedup", "speed-\nup", times, lambda row: row["dense_ms"] / row["update_ms"]),
        Column("macs_active", "GMAC", lambda macs: f"{macs / 1e9:.1f}"),
        Column("update_psnr_db", "edit\ndB", THREE, none="equal"),
        Column("update_max_err", "edit\nmost", THREE),
        Column("update_psnr_image_db", "image\ndB", THREE, none="equal"),
        Column("update_max_err_image", "image\nmost", THREE),
    )

    def check(self) -> None:
        backend_of(self.backend)
        if self.model not in PRETRAINED:
            raise OptionError(f"there are no trained weights of {self.model!r}; choose from: {', '.join(PRETRAINED)}")
        photograph(self.side)

    def measure(self, progress: Progress) -> Iterator[Mapping[str, Any]]:
        """Both edits with every halo. All update one recording, each in every round, beside the dense runs."""
        progress.say(f"{self.model}: building")
        module = Upscaler.from_pretrained(self.model, device="cpu").module
        photo = photograph(self.side)
        inputs = _inputs(photo)
        # The halos are drawn into the masks, so that one recording serves them all.
        policy = Policy.named(self.policy, dilate=0)
        cases = [
            Case(Edit(name, torch.from_numpy((pixels != photo).any(2))), _inputs(pixels), halo)
            for name, pixels in drawn_edits(photo).items()
            for halo in sorted(set(self.dilate))
        ]
        dense = dense_runs(module, inputs, not self.no_compile)
        trial = Trial(self.model, module, inputs, policy, self.backend, cases, dense)
        trial.run(self.repeat, progress)
        truths = {case.edit.label: run_dense(module, case.edited) for case in cases if case.halo == cases[0].halo}
        for case in cases:
            (before, after), truth, mask = trial.outputs(case), truths[case.edit.label], case.edit.mask.numpy()
            yield {
                "image": [self.side, self.side],
                "halo": case.halo,
                **trial.found(case),
                **errors("update", after, truth, mask),
                **errors("nothing", before, truth, mask),
            }

    def heading(self, results: Sequence[Result]) -> tuple[str, str]:
        first = results[0]
        return (
            f"{first['model']}, {first['policy']}: error against halo",
            f"dense: {first['dense_ms']:.0f} ms ({first['dense_kind']}), {first['macs_dense'] / 1e9:.0f} GMAC; "
            f"record: {first['record_ms']:.0f} ms\ndB: PSNR against dense\n"
            "most: largest difference in levels of 0 to 255",
        )

    def plots(self, results: Sequence[Result]) -> list[Plot]:
        label = "PSNR against dense, dB"
        return [
            Plot(_curves(results, "halo"), "halo, pixels", label),
            Plot(_curves(results, "update_ms"), "update, ms", label, "x"),
        ]


def _inputs(pixels: Pixels) -> Inputs:
    return Inputs((torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255,))


def errors(name: str, picture: Tensor, truth: Tensor, mask: Mask) -> Result:
    """PSNR and largest error in levels of 0 to 255 under `mask` [H, W], and over the picture [1, 3, 4H, 4W].

    Both are clamped to [0, 1], not rounded. PSNR is None where they are equal.
    """
    found, wanted = (each[0].double().clamp(0, 1).permute(1, 2, 0).numpy() * 255 for each in (picture, truth))
    return inside_and_image(name, found, wanted, mask.repeat(SCALE, 0).repeat(SCALE, 1), max_err=np.max)


def _curves(results: Sequence[Result], x: str) -> dict[str, list[Point]]:
    """PSNR in the edit and over the picture, for each edit; where an update is equal there is no point."""
    found: dict[str, list[Point]] = {}
    for key, where in (("update_psnr_db", "the edit"), ("update_psnr_image_db", "the picture")):
        for each in results:
            if each[key] is not None:
                found.setdefault(f"{each['edit_label']}, {where}", []).append((each[x], each[key]))
    return found
