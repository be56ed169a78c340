"""How an edit suffers beside other programs that keep processors busy.

`python benchmarks/busy.py` prints median seconds of an edit of `builtin/emoji` beside none, one, two and three of them.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from shared import seconds

from retouch.cli.demo import stroke
from retouch.editing.diffusion import Editor
from retouch.editing.diffusion.session import DiffusionSession

BUSY = [sys.executable, "-c", "while True: pass"]


@contextmanager
def beside(count: int) -> Iterator[None]:
    """With so many other processes that never rest."""
    others = [subprocess.Popen(BUSY) for _ in range(count)]
    try:
        time.sleep(0.3)
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def edited(session: DiffusionSession) -> float:
    """Seconds of one edit, which is undone."""
    took = seconds(session.edit, stroke(session.pixels))
    session.undo()
    return took


def main(
    model: Annotated[str, typer.Option(help="A built-in model.")] = "builtin/emoji",
    most: Annotated[int, typer.Option(help="Up to so many busy processes.")] = 3,
    runs: Annotated[int, typer.Option(help="Edits of each case.")] = 9,
) -> None:
    """Median, least and most seconds of an edit beside busy processes, and the median against that beside none."""
    editor = Editor.from_pretrained(model, device="cpu")
    session = editor.open(editor.generate("crying face", seed=7).pixels, prompt="crying face")
    alone = statistics.median([edited(session) for _ in range(runs + 2)][2:])
    for count in range(most + 1):
        with beside(count):
            took = [edited(session) for _ in range(runs)]
        middle = statistics.median(took)
        print(f"{count} busy: {middle:.3f} s ({min(took):.3f} to {max(took):.3f}), {middle / alone:.2f}x")


if __name__ == "__main__":
    typer.run(main)
