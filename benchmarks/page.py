"""What the studio's page is held to: from the end of a stroke to its final frame, and how soon the page is there.

    python benchmarks/page.py --model builtin/emoji-256 --json page.json

The server and `session.edit` run in one process and take turns; the page runs in Chromium beside them, on the same
cores. Both make the same edits. Medians. Drafts, which are computed while a stroke is drawn, are as a person has them,
or left out with `--no-drafts`.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from playwright.sync_api import Page, sync_playwright
from serving import served
from shared import Json, seconds, told

from retouch.editing import kinds
from retouch.editing.diffusion.editor import Editor
from retouch.editing.diffusion.session import DiffusionSession

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from browsing import CHROMIUM, QUIET, Sheet

SEED = 7
NOT_OF_EDIT = ("refine", "progress", "base")
WINDOW = {"width": 1280, "height": 800}
CLOCKS = """((given) => {
    const now = () => performance.now();
    window.addEventListener('pointerup', () => {
        const ended = now();
        const frame = (done) => requestAnimationFrame(() => done(now() - ended));
        window.final = new Promise((done) => live.on('settled', () => frame(done)));
    }, true);
})(given)"""
STARTED = """new MutationObserver((_, observer) => {
    if (!document.querySelector('.drop')) return;
    observer.disconnect();
    requestAnimationFrame(() => (window.started = performance.now()));
}).observe(document, { childList: true, subtree: true })"""
PAINT = "[performance.getEntriesByName('first-contentful-paint')[0].startTime, window.started]"


class Twin:
    """A session beside the server's, in a folder as that is, which is asked for the same."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.session: DiffusionSession | None = None
        submit = DiffusionSession.submit

        def noted(session: DiffusionSession, *args: Any, **options: Any) -> Any:
            self.asked = {name: value for name, value in options.items() if name not in NOT_OF_EDIT}
            return submit(session, *args, **options)

        DiffusionSession.submit = noted

    def edit(self) -> float:
        """Seconds that `session.edit` takes for what the server's session was asked last.

        The networks are the server's, which know the region by now; to whom `edit` is compared it was new.
        """
        assert self.session is not None
        for net in self.session.networks().values():
            net.forget()
        return seconds(self.session.edit, **self.asked)


def first_paints(browser: Any, address: str, count: int) -> list[tuple[float, float]]:
    """Milliseconds from the request to something on the screen and to the first page, each time with nothing kept."""
    found = []
    for _ in range(count):
        with browser.new_context(viewport=WINDOW) as context:
            page = context.new_page()
            page.add_init_script(STARTED)
            page.goto(address)
            page.locator(".drop").wait_for()
            page.wait_for_timeout(500)
            found.append(tuple(page.evaluate(PAINT)))
    return found


def strokes(page: Page, twin: Twin, count: int) -> Iterator[tuple[float, float]]:
    """Seconds from the end of a stroke to its final frame and of `session.edit` for the same; the first is left out."""
    sheet, mouse = Sheet(page), page.mouse
    side = int(sheet.ask("live.input.width"))
    random = np.random.default_rng(0)
    for number in range(count + 1):
        x, y = random.uniform(0.2, 0.8, 2) * side
        sheet.set(colour=random.integers(0, 255, 3).tolist())
        mouse.move(*sheet.at(x, y))
        mouse.down()
        for step in range(8):
            mouse.move(*sheet.at(x + step * side / 160, y + step * side / 200))
            page.wait_for_timeout(25)
        mouse.up()
        took = page.evaluate("window.final") / 1e3
        page.wait_for_timeout(500)  # what the server does after an edit is over
        alone = twin.edit()
        assert twin.session is not None
        assert np.array_equal(sheet.pixels(), np.asarray(twin.session.image)), "page and session differ"
        if number:
            yield took, alone


def main(
    model: str = "builtin/emoji-256",
    prompt: str = "crying face",
    count: int = 12,
    drafts: Annotated[bool, typer.Option("--drafts/--no-drafts")] = True,
    json: Json = None,
) -> None:
    twin, editor = Twin(), kinds.load(model)
    assert isinstance(editor, Editor), "strokes are measured on diffusion models"
    with (
        tempfile.TemporaryDirectory() as home,
        served(editor, Path(home) / "studio") as server,
        sync_playwright() as playwright,
    ):
        address = f"{server.url}/"
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[f"--{flag}" for flag in QUIET])
        paints = first_paints(browser, address, 7)
        page = browser.new_page(viewport=WINDOW)
        page.goto(address)
        sheet = Sheet(page)
        sheet.set(refine=False, seed=SEED, size=24, hardness=0.9)
        page.locator(".generate textarea").fill(prompt)
        page.get_by_role("button", name="Generate").click()
        sheet.idle()
        if not drafts:
            sheet.ask("(live.drafts.ask = () => {}, 0)")
        sheet.ask(CLOCKS)
        twin.session = editor.generate(prompt, seed=SEED, folder=Path(home) / "twin")
        pairs = list(strokes(page, twin, count))
        browser.close()
    stroke, alone = (statistics.median(column) for column in zip(*pairs, strict=True))
    paint, start = (statistics.median(column) for column in zip(*paints, strict=True))
    told(
        {
            "first_paint_ms": paint,
            "first_page_ms": start,
            "stroke_to_final_s": stroke,
            "session_edit_s": alone,
            "bar_s": 1.15 * alone + 0.03,
            "each": [[round(value, 4) for value in pair] for pair in pairs],
        },
        json,
    )


if __name__ == "__main__":
    typer.run(main)
