"""Draws the pictures of "How it works", each for a light and a dark page: `make drawings`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent / "drawings"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

LIGHT = {
    "ink": "#1f2937", "soft": "#64748b", "line": "#94a3b8", "paper": "#f1f5f9", "edit": "#dc2626",
    "halo": "#fbbf24", "kept": "#93c5fd", "probe": "#7c3aed", "new": "#86efac", "white": "#ffffff",
}  # fmt: skip
DARK = {
    "ink": "#e5e7eb", "soft": "#9ca3af", "line": "#6b7280", "paper": "#2b3340", "edit": "#f87171",
    "halo": "#d97706", "kept": "#3b6ea8", "probe": "#c4b5fd", "new": "#2f855a", "white": "#1e2129",
}  # fmt: skip


@dataclass
class Drawing:
    """An SVG under construction; colours by their names in `colours`."""

    width: int
    height: int
    colours: dict[str, str]
    parts: list[str] = field(default_factory=list)

    def box(
        self, x: float, y: float, w: float, h: float, fill: str = "paper", line: str = "line", r: float = 0
    ) -> None:
        """A rectangle."""
        style = f'fill="{self.colours[fill]}" stroke="{self.colours[line]}"'
        self.parts.append(f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="{r:g}" {style}/>')

    def frame(self, x: float, y: float, w: float, h: float) -> None:
        """A thick outline."""
        style = f'fill="none" stroke="{self.colours["ink"]}" stroke-width="3"'
        self.parts.append(f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" {style}/>')

    def dot(self, x: float, y: float, r: float, fill: str) -> None:
        """A disc."""
        self.parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="{r:g}" fill="{self.colours[fill]}"/>')

    def text(self, x: float, y: float, words: str, at: str = "middle", size: int = 14, ink: str = "ink") -> None:
        """A line of text; `at`: start, middle or end."""
        style = f'text-anchor="{at}" font-size="{size}" fill="{self.colours[ink]}"'
        self.parts.append(f'<text x="{x:g}" y="{y:g}" {style}>{escape(words)}</text>')

    def arrow(self, x0: float, y0: float, x1: float, y1: float, ink: str = "soft", dashed: bool = False) -> None:
        """A straight arrow."""
        style = f'stroke="{self.colours[ink]}" stroke-width="1.6"' + (' stroke-dasharray="4 4"' if dashed else "")
        self.parts.append(f'<line x1="{x0:g}" y1="{y0:g}" x2="{x1:g}" y2="{y1:g}" {style} marker-end="url(#{ink})"/>')

    def named(self, x: float, y: float, w: float, h: float, title: str, note: str = "", fill: str = "paper") -> None:
        """A box with a title and a line below it."""
        self.box(x, y, w, h, fill, r=6)
        self.text(x + w / 2, y + h / 2 + (5 if not note else -3), title)
        if note:
            self.text(x + w / 2, y + h / 2 + 15, note, size=11, ink="soft" if fill == "paper" else "ink")

    def cells(self, x: float, y: float, n: int, side: float, fill: Callable[[int, int], str], m: int = 0) -> None:
        """A grid of `n` columns and `m` rows (0: as many), filled by column and row."""
        for row in range(m or n):
            for column in range(n):
                self.box(x + column * side, y + row * side, side, side, fill(column, row))

    def svg(self) -> str:
        """The file."""
        heads = "".join(
            f'<marker id="{ink}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            f'<path d="M0 0L8 4L0 8z" fill="{self.colours[ink]}"/></marker>'
            for ink in ("soft", "edit", "kept", "ink")
        )
        size = f'viewBox="0 0 {self.width} {self.height}" width="{self.width}" height="{self.height}"'
        body = "\n".join(self.parts)
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{FONT}">'
        return f"{head}\n<defs>{heads}</defs>\n{body}\n</svg>\n"


def inside(column: int, row: int, left: int, top: int, right: int, bottom: int) -> bool:
    """Whether a cell lies in a rectangle, its last column and row included."""
    return left <= column <= right and top <= row <= bottom


def rows(d: Drawing) -> None:
    """An edit, its active rows, and the one thing every layer does."""

    def fill(column: int, row: int) -> str:
        return "edit" if inside(column, row, 3, 2, 4, 3) else "white"

    d.text(100, 24, "a grid of 8 x 8 positions")
    d.cells(20, 40, 8, 20, fill)
    d.text(100, 222, "an edit touches four", size=12, ink="soft")
    d.arrow(195, 120, 245, 120)
    d.text(340, 24, "its matrix: 64 rows of C numbers")
    active = (2, 3, 5, 6)
    for i in range(9):
        d.box(260, 40 + i * 18, 160, 18, "edit" if i in active else "white")
        label = {1: "...", 2: "row 19", 3: "row 20", 4: "...", 5: "row 27", 6: "row 28", 7: "..."}.get(i, "")
        d.text(340, 53 + i * 18, label, size=11, ink="white" if i in active else "ink")
    d.text(340, 222, "channels-last, so nothing is copied", size=12, ink="soft")
    d.arrow(435, 120, 485, 120)
    d.text(600, 24, "every layer: do this for these rows")
    for i, name in enumerate(("19", "20", "27", "28")):
        d.box(500, 62 + i * 32, 60, 22, "edit", r=3)
        d.text(530, 78 + i * 32, name, size=12, ink="white")
        d.arrow(565, 73 + i * 32, 600, 73 + i * 32)
        d.box(605, 62 + i * 32, 90, 22, "new", r=3)
        d.text(650, 78 + i * 32, "computed", size=12)
    d.text(600, 222, "60 rows stay as recorded", size=12, ink="soft")


def flow(d: Drawing) -> None:
    """From a module to a result, and what an edit adds."""
    tops = [("module", "PyTorch"), ("capture", "torch.export"), ("lowering", "ATen to rows")]
    tops += [("passes", "fuse, storage"), ("program", "immutable data")]
    for i, (title, note) in enumerate(tops):
        d.named(14 + i * 144, 40, 118, 56, title, note)
        if i:
            d.arrow(14 + i * 144 - 26, 68, 14 + i * 144 - 2, 68)
    d.text(14, 24, "once, when compiling", "start", 12, "soft")
    d.text(14, 142, "for every edit", "start", 12, "soft")
    lows = [("mask", "pixels"), ("active rows", "of every value"), ("schedule", "kernel calls")]
    lows += [("kernels", "C++, Triton, PyTorch"), ("result", "as the module's")]
    for i, (title, note) in enumerate(lows):
        d.named(14 + i * 144, 158, 118, 56, title, note, "new" if i == 4 else "paper")
        if i:
            d.arrow(14 + i * 144 - 26, 186, 14 + i * 144 - 2, 186)
    d.arrow(590, 98, 380, 156)
    d.named(302, 262, 262, 44, "recording: rows that were kept", fill="kept")
    d.arrow(470, 260, 495, 216)
    d.arrow(520, 216, 530, 260)
    d.text(440, 243, "read", size=11, ink="soft")
    d.text(572, 243, "written, old rows saved", "start", size=11, ink="soft")


def taps(d: Drawing) -> None:
    """A convolution through its index table."""

    def fill(column: int, row: int) -> str:
        if inside(column, row, 3, 2, 4, 3):
            return "edit"
        return "halo" if inside(column, row, 2, 1, 5, 4) else "white"

    d.text(100, 24, "input of a 3x3 convolution")
    d.cells(20, 40, 8, 20, fill)
    d.frame(60, 60, 60, 60)
    d.text(20, 222, "red: computed; yellow: halo,", "start", 12, "soft")
    d.text(20, 238, "from the recording; frame: taps of 19", "start", 12, "soft")
    d.arrow(195, 120, 240, 120)
    d.text(370, 24, "index table: rows that each row reads")
    table = {"19": "10 11 12 18 19 20 26 27 28", "20": "11 12 13 19 20 21 27 28 29"}
    table |= {"27": "18 19 20 26 27 28 34 35 36", "28": "19 20 21 27 28 29 35 36 37"}
    for i, (row, names) in enumerate(table.items()):
        d.box(255, 62 + i * 32, 34, 24, "edit", r=3)
        d.text(272, 79 + i * 32, row, size=12, ink="white")
        d.box(295, 62 + i * 32, 196, 24, "white", r=3)
        d.text(393, 79 + i * 32, names, size=12)
    d.text(370, 222, "padding reads row -1: zeros", size=12, ink="soft")
    d.arrow(500, 120, 545, 120)
    d.named(555, 86, 160, 68, "matrix product", "packed weights, epilogue")
    d.text(624, 222, "at about the rate of a dense one", size=12, ink="soft")


def regions(d: Drawing) -> None:
    """One edit on three grids."""
    sizes = ((16, 12, 0), (8, 24, 1), (4, 48, 2))
    titles = ("64 x 64: the mask, dilated", "32 x 32: reduced, dilated by 1", "16 x 16: computed whole")

    def fill(level: int) -> Callable[[int, int], str]:
        def of(column: int, row: int) -> str:
            if level == 2:
                return "halo"
            inner, outer = ((5, 4, 7, 6), (3, 2, 9, 8)) if level == 0 else ((2, 2, 3, 3), (0, 0, 5, 5))
            if level == 0 and inside(column, row, *inner):
                return "edit"
            if level == 1 and inside(column, row, 1, 1, 4, 4):
                return "edit" if inside(column, row, 2, 2, 3, 3) else "halo"
            return "halo" if inside(column, row, *outer) else "white"

        return of

    for i, (n, side, level) in enumerate(sizes):
        d.text(116 + i * 244, 24, titles[i], size=13)
        d.cells(20 + i * 244, 40, n, side, fill(level))
        if i:
            d.arrow(20 + i * 244 - 46, 136, 20 + i * 244 - 8, 136)
    d.text(360, 256, "red: edited; yellow: computed as well; white: taken from the recording", size=12, ink="soft")


def statistics(d: Drawing) -> None:
    """Three ways to get the statistics of a norm after an edit."""
    titles = ("recorded", "refreshed", "probed")
    notes = (
        ("mean and variance", "of the original"),
        ("sums: old rows off, new rows on;", "the rest counts as recorded"),
        ("the probes tell how the rest", "has moved: sums and halo follow"),
    )
    probes = {(1, 1), (6, 0), (0, 6), (6, 6)}
    for i, title in enumerate(titles):
        x = 46 + i * 244

        def fill(column: int, row: int, i: int = i) -> str:
            if inside(column, row, 3, 2, 4, 4):
                return "edit"
            return "kept" if i == 2 else "white"

        d.text(x + 70, 24, title)
        d.cells(x, 40, 7, 20, fill)
        if i == 2:
            for column, row in probes:
                d.dot(x + column * 20 + 10, 50 + row * 20, 6, "probe")
        for line, text in enumerate(notes[i]):
            d.text(x + 70, 204 + line * 17, text, size=12, ink="soft")
    d.dot(240, 252, 6, "probe")
    d.text(254, 257, "probe: a scattered row that is computed beside the edit", "start", 12, "soft")


def snapshots(d: Drawing) -> None:
    """Layers of a session."""
    d.named(20, 150, 150, 60, "base", "the recording, all rows", "kept")
    layers = [("edit 1", 0), ("edit 2", 1), ("edit 3", 2)]
    for title, i in layers:
        d.named(210 + i * 130, 150, 96, 60, title, "its rows", "new")
        d.arrow(210 + i * 130, 180, 174 + (i and 6 + i * 130), 180)
    d.named(470, 50, 96, 60, "edit 3'", "a branch", "new")
    d.arrow(470, 95, 440, 148)
    d.text(258, 250, "now, after undo", size=12)
    d.arrow(258, 238, 258, 214, "ink")
    d.text(518, 250, "kept for redo", size=12, ink="soft")
    d.text(640, 82, "a row is read from", "middle", 12, "soft")
    d.text(640, 98, "the newest layer", "middle", 12, "soft")
    d.text(640, 114, "that holds it", "middle", 12, "soft")
    d.text(100, 250, "never written again", size=12, ink="soft")


def trajectory(d: Drawing) -> None:
    """An edit of a diffusion session."""
    d.text(14, 60, "recorded", "start")
    d.text(14, 210, "edit", "start")
    for i, title in enumerate(("noise", "step 1", "step 2", "step 3", "picture")):
        x = 110 + i * 126
        d.text(x + 40, 24, title, size=12, ink="soft")
        d.box(x, 34, 80, 80, "kept", r=4)
        d.box(x, 164, 80, 80, "kept", r=4)
        d.box(x + 44, 184, 22, 22, "edit", r=2)
        if i < 4:
            d.arrow(x + 84, 74, x + 120, 74)
            d.arrow(x + 84, 204, x + 120, 204, "edit")
        d.arrow(x + 24, 118, x + 24, 160, dashed=True)
    d.text(
        392, 272, "red: computed at every step; blue: put back from the recording after every step", size=12, ink="soft"
    )


SIZES: dict[Callable[[Drawing], None], tuple[int, int]] = {
    rows: (730, 236), flow: (730, 320), taps: (730, 250), regions: (730, 268), statistics: (730, 268),
    snapshots: (730, 266), trajectory: (730, 284),
}  # fmt: skip


def main() -> None:
    """Write every drawing twice."""
    for draw, size in SIZES.items():
        for name, colours in (("light", LIGHT), ("dark", DARK)):
            drawing = Drawing(*size, colours)
            draw(drawing)
            (FOLDER / f"{draw.__name__}-{name}.svg").write_text(drawing.svg())


if __name__ == "__main__":
    main()
