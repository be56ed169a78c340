"""What live editing is held to: few steps end to end, previews, cancelling, variants, soft masks, refinement.

    python benchmarks/live.py --model sd15-lcm --dtype bfloat16 --json live.json
    python benchmarks/live.py --tiny                       # does it run at all

Pipelines with random weights (`retouch.models.pipelines`): times and arithmetic are those of the real ones. Every
ratio is of runs that took turns; medians, or minima with `--minima` on a busy machine.
"""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import typer
from shared import RED, Json, built, seconds, told

from retouch import Editor, Region
from retouch.bench.difference import psnr
from retouch.bench.edits import painted, soft_picture, square
from retouch.editing.diffusion.session import DiffusionSession
from retouch.editing.jobs import Frame, Job
from retouch.models import pipelines

VARIANTS = 4


class Live:
    """One pipeline with a session on it, and an edit."""

    def __init__(self, name: str, dtype: str, policy: str, share: float, tiny: bool) -> None:
        known = pipelines.get(name)
        size = known.image_size(tiny)
        self.picture, self.mask = soft_picture(size), square(share, size).mask.numpy()
        self.edited = painted(self.picture, self.mask, RED)
        editor = Editor(built(name, dtype, tiny), policy=policy)
        self.session: DiffusionSession = editor.open(self.picture, **known.settings(known.steps[0]))

    def edit(self) -> None:
        self.session.edit(self.edited, mask=self.mask)
        self.session.undo()

    def dense(self) -> None:
        self.session.reference(self.edited, mask=self.mask)

    def submitted(self, **options: Any) -> Job[Any]:
        return self.session.submit(self.edited, mask=self.mask, **{"refine": None, **options})

    def variants(self) -> None:
        self.session.variants(VARIANTS, self.edited, mask=self.mask)

    def previews(self) -> tuple[float, float]:
        """Milliseconds to the first frame, and to the result."""
        job = self.submitted()
        frames: list[Frame] = list(job)
        job.result()
        self.session.undo()
        return frames[0].seconds * 1e3, frames[-1].seconds * 1e3

    def cancelling(self) -> float:
        """Milliseconds from cancelling after the first step to the end of the job."""
        job = self.submitted()
        next(iter(job))
        job.cancel()
        took = 1e3 * seconds(list_of_frames, job)
        if not job.cancelled():
            self.session.undo()
        return took

    def soft(self) -> float:
        """Arithmetic of a linear ramp over that of the hard mask of its support."""
        columns = np.flatnonzero(self.mask.any(0))
        ramp = np.zeros(self.mask.shape)
        ramp[:, columns] = np.linspace(1 / len(columns), 1, len(columns))
        ramp *= self.mask
        counts = []
        for mask in (ramp, ramp > 0):
            frames = list(self.session.submit(self.edited, mask=mask, refine=None))
            counts.append(frames[-1].done)
            self.session.undo()
        return counts[0] / counts[1]

    def refined(self) -> dict[str, Any]:
        """The refined picture against the dense one, in dB inside the region, and whether all else stayed."""
        truth = np.array(self.session.reference(self.edited, mask=self.mask).image).astype(float)
        list_of_frames(self.submitted(refine="dense"))
        found = self.session.pixels
        self.session.undo()
        outside = ~Region.from_mask(self.mask).dilated(self.session.border).mask[0]
        return {
            "refined_db": psnr(np.abs(found[self.mask] - truth[self.mask])),
            "outside_unchanged": bool((found[outside] == self.picture[outside]).all()),
        }


def list_of_frames(job: Job[Any]) -> list[Frame]:
    """All frames of a job, whatever ends it."""
    frames = []
    try:
        frames.extend(job)
    except Exception:
        if not job.cancelled():
            raise
    return frames


def main(
    model: str = "sd15-lcm",
    dtype: str = "float32",
    policy: str = "fast",
    share: float = 0.012,
    rounds: int = 5,
    dense_rounds: int = 2,
    tiny: bool = False,
    minima: bool = False,
    json_file: Json = None,
) -> None:
    """Measure and print one line for each figure."""
    of = min if minima else statistics.median
    live = Live(model, dtype, policy, share, tiny)
    live.edit()
    edits, firsts, results, cancels, many, dense = [], [], [], [], [], []
    for _ in range(rounds):
        edits.append(1e3 * seconds(live.edit))
        first, result = live.previews()
        firsts.append(first)
        results.append(result)
        cancels.append(live.cancelling())
        many.append(1e3 * seconds(live.variants))
    for _ in range(dense_rounds):
        dense.append(1e3 * seconds(live.dense))
        edits.append(1e3 * seconds(live.edit))
    steps = len(live.session.sampler)
    found = {
        "model": model, "dtype": dtype, "policy": policy, "share": share, "steps": steps,
        "dense_ms": of(dense), "edit_ms": of(edits), "speedup": of(dense) / of(edits),
        "job_ms": of(results), "job_over_edit": of(results) / of(edits),
        "first_preview_share": of(firsts) / of(results) * steps,
        "cancel_ms": of(cancels), "cancel_in_steps": of(cancels) / (of(edits) / steps),
        "variants_over_edits": of(many) / (VARIANTS * of(edits)),
        "soft_over_hard": live.soft(),
        **live.refined(),
    }  # fmt: skip
    told(found, json_file)


if __name__ == "__main__":
    typer.run(main)
