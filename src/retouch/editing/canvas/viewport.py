"""Where viewports lie: boxes of a canvas at scales, shown at the size that a model was trained for."""

from __future__ import annotations

import math

from retouch.editing.canvas.resample import Scaling, Size
from retouch.editing.images import Box

MOST = 4.0
"""A viewport enlarges no more than so many times."""


def sides(box: Box) -> Size:
    """Height and width."""
    return box[0].stop - box[0].start, box[1].stop - box[1].start


def whole(canvas: Size) -> Box:
    """The box of all of it."""
    return slice(0, canvas[0]), slice(0, canvas[1])


def common(one: Box, other: Box) -> Box | None:
    """What two boxes have in common; None: nothing."""
    spans = [slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True)]
    return (spans[0], spans[1]) if all(span.start < span.stop for span in spans) else None


def hull(one: Box, other: Box) -> Box:
    """The smallest box that holds both."""
    rows, columns = (slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(one, other, strict=True))
    return rows, columns


def grown(box: Box, by: int, within: Box) -> Box:
    """With so many more pixels on every side that has them."""
    rows, columns = (
        slice(max(limit.start, span.start - by), min(limit.stop, span.stop + by))
        for span, limit in zip(box, within, strict=True)
    )
    return rows, columns


def inside(box: Box, within: Box) -> Box:
    """A box of the canvas, counted from the corner of another one that holds it."""
    rows, columns = (slice(a.start - b.start, a.stop - b.start) for a, b in zip(box, within, strict=True))
    return rows, columns


def moved(box: Box, down: int, right: int) -> Box:
    """So many pixels further down and to the right."""
    rows, columns = box
    return slice(rows.start + down, rows.stop + down), slice(columns.start + right, columns.stop + right)


def holds(outer: Box, inner: Box) -> bool:
    """Whether a box lies in another one."""
    return common(outer, inner) == inner


# Viewports


def scales(size: Size, canvas: Size) -> list[float]:
    """Those that a viewport of a size (H, W) may have, from `MOST` down by halves; the last shows everything."""
    whole = min(MOST, *(length / limit for length, limit in zip(size, canvas, strict=True)))
    count = math.ceil(math.log2(MOST / whole))
    return [*(MOST / 2**i for i in range(count)), whole]


def around(box: Box, scale: float, size: Size, canvas: Size) -> Scaling:
    """The viewport at a scale in whose middle a box is, moved into the canvas.

    Where the canvas is smaller than that, all of it is shown, reflected around.
    """
    spans, inner = [], []
    for span, length, limit in zip(box, size, canvas, strict=True):
        wanted = math.ceil(length / scale)
        side = min(wanted, limit)
        start = min(max((span.start + span.stop - side) // 2, 0), limit - side)
        spans.append(slice(start, start + side))
        inner.append(length if side == wanted else min(length, max(1, round(side * scale))))
    return Scaling((spans[0], spans[1]), (inner[0], inner[1]), size)


def tiles(size: Size, canvas: Size, factor: int) -> list[Scaling]:
    """Viewports of the canvas's scale that overlap by a quarter and hold all of it.

    The corners of what the model sees lie multiples of `factor` apart, as those of latent positions do.
    """
    spans = [_along(length, limit, factor) for length, limit in zip(size, canvas, strict=True)]
    boxes = [(rows, columns) for rows in spans[0] for columns in spans[1]]
    return [Scaling(box, (box[0].stop - box[0].start, box[1].stop - box[1].start), size) for box in boxes]


def _along(length: int, limit: int, factor: int) -> list[slice]:
    """The tiles of one direction. The last one shows less, reflected around, so that its corner is where it should."""
    if limit <= length:
        return [slice(0, limit)]
    less = -(limit - length) % factor
    starts = range(0, limit - length, 3 * length // 4 // factor * factor)
    return [*(slice(start, start + length) for start in starts), slice(limit - length + 2 * less, limit)]


def margin(viewport: Scaling, box: Box, canvas: Size) -> float:
    """Pixels of the model between a box and the nearest side of a viewport that is not one of the canvas.

    Below 0 where the box reaches over it; infinity where everything around is there.
    """
    found = math.inf
    for seen, span, limit in zip(viewport.box, box, canvas, strict=True):
        before = span.start - seen.start if seen.start > 0 else math.inf
        after = seen.stop - span.stop if seen.stop < limit else math.inf
        found = min(found, before, after)
    return found * viewport.scale


def shown_box(viewport: Scaling, box: Box) -> Box:
    """The pixels of the model that a box in a viewport touches."""
    return _scaled(box, viewport.box, viewport.sides, viewport.window, viewport.inner)


def canvas_box(viewport: Scaling, box: Box) -> Box | None:
    """The pixels of the canvas that a box of the model's pixels touches; None where it shows a reflection alone."""
    seen = common(box, viewport.window)
    return None if seen is None else _scaled(seen, viewport.window, viewport.inner, viewport.box, viewport.sides)


def _scaled(box: Box, source: Box, old: Size, target: Box, new: Size) -> Box:
    """The pixels of a target that a box touches in a source; `old` and `new` are the sizes of both."""
    rows, columns = (
        slice(
            to.start + (span.start - start.start) * wanted // side,
            to.start - (-(span.stop - start.start) * wanted // side),
        )
        for span, start, side, to, wanted in zip(box, source, old, target, new, strict=True)
    )
    return rows, columns
