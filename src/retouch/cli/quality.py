"""`retouch bench --quality`: how close edits come to the dense model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from retouch.cli.bench import collected
from retouch.cli.common import command_line, failures, quiet_libraries, set_threads, usage_errors

if TYPE_CHECKING:
    from retouch.editing.images import Pixels

MODEL = "builtin/emoji"
PICTURES = 20
PROMPTS = (
    "red apple", "grinning face", "dog face", "pizza", "tiger face", "sunflower", "octopus", "birthday cake",
    "red heart", "tropical fish", "crying face", "hamburger", "teapot", "watermelon", "panda", "pineapple", "frog",
    "strawberry", "robot", "ice cream",
)  # fmt: skip
"""What the model draws when no pictures are given."""

JSON_EVERY = 100


def bench_quality(
    model: str | None,
    images: Path | None,
    count: int,
    methods: Sequence[str] | None,
    backend: str,
    threads: int | None,
    json: Path | None,
    report: Path | None,
) -> None:
    """Measure, print the table, and write the report with its plot beside it."""
    with usage_errors():
        from retouch.bench import check_writable
        from retouch.bench.quality import METHODS, QualityOptions

        for file in (json, report):
            if file is not None:
                check_writable(file)
        given = _pictures(images) if images else None
        QualityOptions(MODEL, (), count, methods or tuple(METHODS))
    set_threads(threads)
    with failures():
        quiet_libraries()
        from retouch.bench.quality import Gallery, markdown, measure_quality, quality_plot, quality_table
        from retouch.editing.images import save_png

        options = QualityOptions(
            model or MODEL, given or _drawn(model or MODEL), count, methods or tuple(METHODS), backend=backend
        )
        gallery = Gallery()
        results = collected(lambda tick: measure_quality(options, tick, gallery), options.ticks, json, every=JSON_EVERY)
        Console().print(quality_table(results))
        if report is not None:
            plot = save_png(quality_plot(results), report.with_suffix(".png"))
            sheet = None
            if gallery.tiles:
                sheet = save_png(gallery.sheet(), report.with_name(f"{report.stem}-edits.png")).name
            folder = images.name if images else None
            command = command_line({"--quality": True, "--count": count, "--images": folder, "--method": methods})
            report.write_text(markdown(results, command, plot.name, sheet))


def _pictures(folder: Path) -> list[tuple[str, Pixels]]:
    """The first PNG files of a folder, by their names as prompts. ValueError when there are none."""
    from retouch.editing.images import as_pixels

    files = sorted(folder.glob("*.png"))[:PICTURES]
    if len(files) < 2:
        raise ValueError(f"{folder} holds fewer than two PNG files")
    return [(file.stem.replace("-", " "), as_pixels(file)) for file in files]


def _drawn(model: str) -> list[tuple[str, Pixels]]:
    """Pictures that the model itself makes of the prompts."""
    from retouch.editing.diffusion import Editor

    editor = Editor.from_pretrained(model, device="cpu", policy="fast")
    return [
        (prompt, editor.generate(prompt, steps=20, guidance=3.0, seed=seed).pixels)
        for seed, prompt in enumerate(PROMPTS)
    ]
