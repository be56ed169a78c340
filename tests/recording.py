"""Records a session in the studio as an animated picture: `python tests/recording.py OUT.webp [--model NAME]`; with
`--stills FOLDER` also what is shown while an edit is computed (live.webp) and afterwards (compare.webp).

A model, the server as `retouch studio` starts it, Chromium, and what somebody does there, at the speed that it has.
"""

from __future__ import annotations

import argparse
import base64
import io
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from browsing import CHROMIUM, QUIET, Sheet

SIZE = {"width": 1180, "height": 720}
SHORTEST, LONGEST = 50, 1600  # milliseconds of a frame
MOST = 3_000_000
QUALITIES = (80, 70, 60, 50, 40)
Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Stroke:
    """Size and places are shares of the picture's width; prompt: other words for it."""

    colour: tuple[int, int, int]
    size: float
    points: Points
    prompt: str = ""


@dataclass(frozen=True)
class Scene:
    """What is generated and painted."""

    prompt: str
    seed: int
    strokes: tuple[Stroke, ...]


SCENES = {
    "builtin/emoji": Scene(
        "crying face",
        7,
        (
            Stroke((40, 170, 240), 0.12, ((0.66, 0.5), (0.68, 0.62), (0.68, 0.76))),
            Stroke((228, 36, 52), 0.22, ((0.34, 0.4), (0.35, 0.44)), "smiling face with heart-eyes"),
            Stroke((228, 36, 52), 0.22, ((0.66, 0.4), (0.67, 0.44))),
        ),
    )
}


@contextmanager
def studio(model: str) -> Iterator[str]:
    """The address of a studio with a model."""
    with tempfile.TemporaryDirectory() as home:
        options = ["--model", model, "--no-browser", "--no-token", "--port", "0", "--home", home]
        command = [sys.executable, "-c", "from retouch.cli import app; app()", "studio", *options]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                yield process.stdout.readline().strip()
            finally:
                process.terminate()


class Film:
    """What a page has shown, and when."""

    def __init__(self, page: Any) -> None:
        self.frames: list[tuple[float, bytes]] = []
        self._protocol = page.context.new_cdp_session(page)
        self._protocol.on("Page.screencastFrame", self._shown)

    def roll(self) -> None:
        """From now on."""
        self._protocol.send("Page.startScreencast", {"format": "png"})

    def cut(self) -> None:
        """Until now."""
        self._protocol.send("Page.stopScreencast")
        self._protocol.remove_listener("Page.screencastFrame", self._shown)

    def _shown(self, event: dict[str, Any]) -> None:
        self.frames.append((event["metadata"]["timestamp"], base64.b64decode(event["data"])))
        self._protocol.send("Page.screencastFrameAck", {"sessionId": event["sessionId"]})

    def save(self, path: Path) -> int:
        """As an animated WebP of fewer than MOST bytes; how many. A frame that was hardly seen is left out."""
        times = [1000 * at for at, _ in self.frames]
        kept = [0]
        for number, at in enumerate(times):
            if at - times[kept[-1]] >= SHORTEST:
                kept.append(number)
        lengths = [min(int(times[b] - times[a]), LONGEST) for a, b in pairwise(kept)] + [LONGEST]
        first, *others = (Image.open(io.BytesIO(self.frames[number][1])).convert("RGB") for number in kept)
        for quality in QUALITIES:
            first.save(path, save_all=True, append_images=others, duration=lengths, loop=0, quality=quality, method=3)
            if path.stat().st_size < MOST:
                break
        return path.stat().st_size


def generate(sheet: Sheet, scene: Scene) -> float:
    """The first picture; its width."""
    sheet.set(seed=scene.seed)
    sheet.page.locator(".generate textarea").fill(scene.prompt)
    sheet.page.get_by_role("button", name="Generate").click()
    sheet.idle()
    sheet.page.wait_for_timeout(7000)  # messages are gone
    return float(sheet.ask("live.input.width"))


def stills(sheet: Sheet, scene: Scene, folder: Path) -> None:
    """Paints, and looks at what came of it with what was computed."""
    page, width = sheet.page, generate(sheet, scene)
    for number, stroke in enumerate(scene.strokes[:2], 1):
        sheet.set(
            colour=list(stroke.colour), size=stroke.size * width, hardness=0.9, prompt=stroke.prompt or scene.prompt
        )
        sheet.stroke(*((x * width, y * width) for x, y in stroke.points))
        if number == 1:
            page.locator("canvas.preview").wait_for(state="attached")
            sheet.until("live.work?.done >= 4 || live.head === 1")
            take(page, folder / "live.webp")
        sheet.until(f"live.head >= {number}")
        sheet.idle()
    page.locator("summary").get_by_text("What was computed").click()
    page.locator(".inspect table").first.wait_for()
    page.get_by_role("button", name="Before and after").click()
    page.locator(".divider").wait_for()
    page.mouse.move(*sheet.at(width / 2, width / 2))
    page.mouse.down()
    page.mouse.move(*sheet.at(width / 4, width / 2), steps=5)
    page.mouse.up()
    page.wait_for_timeout(1000)
    take(page, folder / "compare.webp")


def take(page: Any, path: Path) -> None:
    """What the page shows now."""
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(path, quality=QUALITIES[0], method=6)


def act(sheet: Sheet, scene: Scene, film: Film) -> None:
    """Generates, paints, and looks at what came of it."""
    page, wait, width = sheet.page, sheet.page.wait_for_timeout, generate(sheet, scene)
    film.roll()
    wait(700)
    for number, stroke in enumerate(scene.strokes, 1):
        sheet.set(colour=list(stroke.colour), size=stroke.size * width, hardness=0.9)
        if stroke.prompt:
            page.locator("#prompt").fill(stroke.prompt)
            wait(700)
        paint(sheet, [(x * width, y * width) for x, y in stroke.points])
        sheet.until(f"live.head >= {number}")
        sheet.idle()
        wait(1500)
    page.locator("#canvas").focus()
    page.keyboard.press("v")
    wait(1800)
    page.keyboard.press("v")
    page.keyboard.press("c")
    page.locator(".divider").wait_for()
    drag(sheet, width)
    page.keyboard.press("c")
    wait(900)
    film.cut()


def paint(sheet: Sheet, points: list[tuple[float, float]]) -> None:
    """A stroke at the pace of a hand."""
    mouse, places = sheet.page.mouse, [sheet.at(*point) for point in points]
    mouse.move(*places[0], steps=8)
    mouse.down()
    for (x0, y0), (x1, y1) in pairwise(places):
        for step in range(1, 13):
            mouse.move(x0 + (x1 - x0) * step / 12, y0 + (y1 - y0) * step / 12)
            sheet.page.wait_for_timeout(25)
    mouse.up()


def drag(sheet: Sheet, width: float) -> None:
    """The handle between before and after, to and fro."""
    mouse = sheet.page.mouse
    mouse.move(*sheet.at(width / 2, width / 2))
    mouse.down()
    for share in [*(0.5 + 0.045 * i for i in range(11)), *(0.95 - 0.06 * i for i in range(16))]:
        mouse.move(*sheet.at(share * width, width / 2))
        sheet.page.wait_for_timeout(60)
    mouse.up()


def record(path: Path | None, folder: Path | None, model: str) -> None:
    """Makes the files."""
    with studio(model) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[f"--{flag}" for flag in QUIET])
        if folder is not None:
            page = browser.new_page(viewport=SIZE)
            page.goto(address)
            stills(Sheet(page), SCENES[model], folder)
        if path is not None:
            page = browser.new_page(viewport=SIZE)
            page.goto(address)
            film = Film(page)
            act(Sheet(page), SCENES[model], film)
            print(f"{film.save(path)} bytes")
        browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path, nargs="?")
    parser.add_argument("--stills", type=Path)
    parser.add_argument("--model", choices=SCENES, default="builtin/emoji")
    given = parser.parse_args()
    record(given.path, given.stills, given.model)
