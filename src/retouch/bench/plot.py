"""Line plots drawn with Pillow: curves over linear or logarithmic axes, with ticks and a legend."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

Point = tuple[float, float]
"""x and y, in an axis' units or in pixels."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Told apart by colour-blind people, too (Okabe and Ito)."""

MARKERS = ("circle", "square", "triangle", "diamond")
INK, GRID = "#333333", "#dddddd"
FONT_SIZE, TITLE_SIZE, GAP, MARKER, FINER = 13, 15, 8, 4, 4
TICKS = 8
PADDING = 0.04
"""Share of an axis that stays free at either end."""


@dataclass(frozen=True)
class Axis:
    """The range of one axis: in decades if it is logarithmic, in its own units if not."""

    low: float
    high: float
    log: bool

    @staticmethod
    def of(values: Sequence[float], log: bool) -> Axis:
        """An axis with room for the values. ValueError for what has no place on it."""
        if not values or not all(map(math.isfinite, values)):
            raise ValueError("a plot needs points, all of them finite")
        if log and min(values) <= 0:
            raise ValueError(f"{min(values):g} has no place on a logarithmic axis")
        low, high = (math.log10(each) if log else each for each in (min(values), max(values)))
        spare = (high - low) * PADDING or (0.5 if log else abs(low) / 2 or 0.5)
        return Axis(low - spare, high + spare, log)

    def place(self, value: float) -> float:
        """Where a value lies, from 0 to 1."""
        return ((math.log10(value) if self.log else value) - self.low) / (self.high - self.low)

    @property
    def ticks(self) -> list[float]:
        """Round numbers along the axis, about `TICKS` of them."""
        if not self.log or self.high - self.low < 0.5:
            ends = (10**self.low, 10**self.high) if self.log else (self.low, self.high)
            return _multiples(*ends)
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        every = max(1, math.ceil((self.high - self.low) / TICKS))
        digits = (1, 2, 5) if self.high - self.low < 2 else (1,)
        found = (digit * 10.0**decade for decade in decades if decade % every == 0 for digit in digits)
        return [tick for tick in found if 0 <= self.place(tick) <= 1]


def line_plot(
    curves: Mapping[str, Sequence[Point]],
    x_label: str,
    y_label: str,
    *,
    title: str = "",
    log_x: bool = False,
    log_y: bool = False,
    size: tuple[int, int] = (760, 460),
) -> Image.Image:
    """Curves by their names in the legend, each a line through its points (x, y) in the given order.

    size: width and height in pixels. Raises ValueError when there are no points, for points that are not finite,
    for values without a place on a logarithmic axis, and for a size that leaves no room for the curves.
    """
    points = [point for curve in curves.values() for point in curve]
    x, y = Axis.of([x for x, _ in points], log_x), Axis.of([y for _, y in points], log_y)
    frame = _Frame.of(size, x, y, curves, bool(title))
    image = _drawn(size, frame, list(curves.values()))
    _write(image, frame, list(curves), (x_label, y_label), title)
    return image


@dataclass(frozen=True)
class _Frame:
    """The rectangle of the curves in pixels, and its axes."""

    left: int
    top: int
    right: int
    bottom: int
    x: Axis
    y: Axis

    @staticmethod
    def of(size: tuple[int, int], x: Axis, y: Axis, names: Iterable[str], titled: bool) -> _Frame:
        """What labels, ticks, legend and title leave. ValueError when that is nothing."""
        font = ImageFont.load_default(FONT_SIZE)
        line = FONT_SIZE + GAP
        left = GAP + line + round(max(map(font.getlength, map(_text, y.ticks)), default=0)) + GAP
        right = size[0] - round(max(map(font.getlength, names))) - 4 * GAP - 2 * MARKER
        top, bottom = GAP + (TITLE_SIZE + GAP) * titled + FONT_SIZE // 2, size[1] - 2 * line - GAP
        if right - left < 4 * line or bottom - top < 4 * line:
            raise ValueError(f"a plot of {size[0]}x{size[1]} pixels has no room for its curves")
        return _Frame(left, top, right, bottom, x, y)

    def at(self, point: Point) -> Point:
        """The pixel of a point."""
        return self.across(point[0]), self.down(point[1])

    def across(self, x: float) -> float:
        """The column of an x."""
        return self.left + self.x.place(x) * (self.right - self.left)

    def down(self, y: float) -> float:
        """The row of a y."""
        return self.bottom - self.y.place(y) * (self.bottom - self.top)

    def legend(self, place: int) -> Point:
        """The middle of the marker of an entry of the legend."""
        return self.right + 2 * GAP + MARKER, self.top + GAP + place * (FONT_SIZE + GAP)


def _drawn(size: tuple[int, int], frame: _Frame, curves: Sequence[Sequence[Point]]) -> Image.Image:
    """All lines and markers, drawn larger and scaled down, as Pillow draws hard edges."""
    canvas = Image.new("RGB", (size[0] * FINER, size[1] * FINER), "white")
    draw = ImageDraw.Draw(canvas)

    def line(points: Sequence[Point], colour: str, width: float) -> None:
        draw.line([(x * FINER, y * FINER) for x, y in points], colour, round(width * FINER), "curve")

    for tick in frame.x.ticks:
        line([(frame.across(tick), frame.top), (frame.across(tick), frame.bottom)], GRID, 1)
    for tick in frame.y.ticks:
        line([(frame.left, frame.down(tick)), (frame.right, frame.down(tick))], GRID, 1)
    line([(frame.left, frame.top), (frame.left, frame.bottom), (frame.right, frame.bottom)], INK, 1)
    for place, curve in enumerate(curves):
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        pixels = [frame.at(point) for point in curve]
        line(pixels, colour, 2)
        for pixel in [*pixels, frame.legend(place)]:
            draw.polygon(_outline(marker, pixel), colour)
    return canvas.resize(size, Image.Resampling.BOX)


def _outline(marker: str, centre: Point) -> list[Point]:
    """The corners of a marker on the finer canvas; all kinds have about the same area."""
    corners, turn, radius = {
        "circle": (24, 0.0, 1.0),
        "square": (4, 0.125, 1.25),
        "triangle": (3, 0.75, 1.55),
        "diamond": (4, 0.0, 1.25),
    }[marker]
    angles = (2 * math.pi * (turn + corner / corners) for corner in range(corners))
    reach = MARKER * radius
    return [(FINER * (centre[0] + reach * math.cos(a)), FINER * (centre[1] + reach * math.sin(a))) for a in angles]


def _write(image: Image.Image, frame: _Frame, names: Sequence[str], labels: tuple[str, str], title: str) -> None:
    """Ticks, labels, legend and title."""
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(FONT_SIZE)
    middle, line = (frame.left + frame.right) / 2, FONT_SIZE + GAP
    for tick in frame.x.ticks:
        draw.text((frame.across(tick), frame.bottom + GAP / 2), _text(tick), INK, font, "ma")
    for tick in frame.y.ticks:
        draw.text((frame.left - GAP / 2, frame.down(tick)), _text(tick), INK, font, "rm")
    draw.text((middle, frame.bottom + line), labels[0], INK, font, "ma")
    for place, name in enumerate(names):
        x, y = frame.legend(place)
        draw.text((x + MARKER + GAP, y), name, INK, font, "lm")
    if title:
        draw.text((middle, GAP), title, INK, ImageFont.load_default(TITLE_SIZE), "ma")
    side = Image.new("RGB", (round(font.getlength(labels[1])), line), "white")
    ImageDraw.Draw(side).text((0, 0), labels[1], INK, font)
    side = side.rotate(90, expand=True)
    image.paste(side, (GAP // 2, round((frame.top + frame.bottom - side.height) / 2)))


def _multiples(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten from `low` to `high`, about `TICKS` of them."""
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _text(tick: float) -> str:
    """A tick without the noise of its last digits."""
    return f"{tick:.5g}"
