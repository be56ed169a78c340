"""Seams of a region that is cut into views.

    python benchmarks/views.py --count 8 --steps 6

Edits of one picture: in a session that sees all of it, in two views that are denoised together, and in the same two
apart, joined in the middle of their overlap. Prints medians over edits, in grey levels a step: `seam`, that of `retouch
bench quality`, over the border of the region; and how much more neighbours differ across a line inside the region than
those beside it, where a view ends, and in the middle of the overlap. Content that ends at a line by chance counts, too.
"""

from __future__ import annotations

from statistics import median

import numpy as np
import typer

import retouch
from retouch.bench.difference import seam
from retouch.editing.diffusion.asked import Asked
from retouch.editing.diffusion.views import View, redrawn_together
from retouch.editing.images import Pixels
from retouch.plan.region import Mask

PROMPTS = "red apple", "crying face", "red heart", "a tree", "blue bird", "pizza", "octopus", "sun"
SIDE, SHIFT = 128, 64
"""Pixels of a view, and from one to the next."""


def jump(pixels: Pixels, mask: Mask, column: int) -> float:
    """How much more neighbours differ across the left side of a column than near it, inside a mask."""
    steps = np.abs(np.diff(pixels[mask[:, column]].astype(float), axis=1)).mean((0, 2))
    near = [*range(column - 6, column - 2), *range(column + 2, column + 6)]
    return float(steps[column - 1] - steps[near].mean())


def measured(editor: retouch.Editor, number: int, steps: int) -> dict[str, tuple[float, float, float]]:
    """Seam, jump at the ends of views and jump in the middle of their overlap, by method."""
    prompt, words = PROMPTS[number % len(PROMPTS)], PROMPTS[(number + 3) % len(PROMPTS)]
    options = {"prompt": words, "steps": steps, "seed": number, "guidance": 3.0}
    picture = editor.generate(prompt, size=(SIDE, SIDE + SHIFT), steps=steps, seed=number, guidance=3.0).pixels
    mask = np.zeros(picture.shape[:2], np.bool_)
    mask[40:88, 16:-16] = True
    whole = editor.open(picture, **options)
    parts = [(slice(None), slice(x, x + SIDE)) for x in (0, SHIFT)]
    sessions = [editor.open(picture[part], **options) for part in parts]
    apart = [np.asarray(s.branch().inpaint(mask[part]).image) for s, part in zip(sessions, parts, strict=True)]
    views = [
        View(session, part[1].start, 0, Asked(mask=mask[part], inpaint=True))
        for session, part in zip(sessions, parts, strict=True)
    ]
    middle = (SIDE + SHIFT) // 2
    found = {
        "one session": np.asarray(whole.inpaint(mask).image),
        "together": np.asarray(redrawn_together(views).image),
        "apart": np.concatenate([apart[0][:, :middle], apart[1][:, middle - SHIFT :]], 1),
    }
    return {
        name: (
            seam(pixels, picture, mask, whole.border),
            (jump(pixels, mask, SHIFT) + jump(pixels, mask, SIDE)) / 2,
            jump(pixels, mask, middle),
        )
        for name, pixels in found.items()
    }


def main(count: int = 8, steps: int = 8) -> None:
    """Measure and print."""
    editor = retouch.load("builtin/emoji")
    results = [measured(editor, number, steps) for number in range(count)]
    print(f"{'':14}{'seam':>8}{'ends':>8}{'middle':>8}")
    for name in results[0]:
        columns = zip(*(result[name] for result in results), strict=True)
        print(f"{name:14}" + "".join(f"{median(column):8.2f}" for column in columns))


if __name__ == "__main__":
    typer.run(main)
