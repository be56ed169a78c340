"""Copy and exchange rows: the snapshot that makes an update undoable."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from retouch.ir.geometry import IntArray
from retouch.ops.row_map import fetch, store
from retouch.ops.spec import CHANNELS, FLOATS, Arguments, Draw, KernelSpec, within

SCALE = 2
"""Columns that levels of int8 end in: the bytes of the bfloat16 by which they are multiplied."""

ENDS = 5
"""Columns that int8 rows of products end in: the bytes of a float32 by which they are multiplied, the level of zero."""

STEPS = 254
"""Between their least and largest level: one less than int8 has, for what rounding adds."""

SMALLEST = 2.0**-100
"""Rows of smaller magnitude are zeros as int8."""

Copy = tuple[Tensor, Tensor | None, Tensor, Tensor | None]
"""Arguments of `copy_rows`."""


def quantized(rows: Tensor, parts: int = 1) -> Tensor:
    """Rows `[M, C]` as int8 `[M, C + parts * SCALE]`: of each of so many equal parts of the channels, one after the
    other, levels of -127 to 127, and the scale by which its largest magnitude is at most 127.
    """
    count, channels = rows.shape
    x = rows.float().reshape(count * parts, channels // parts)
    most = x.abs().amax(1)
    scales = _up(most / torch.full_like(most, 127))  # a number instead would be multiplied by a rounded reciprocal
    levels = x * torch.where(most >= SMALLEST, 1 / scales.float(), 0)[:, None]
    found = torch.cat([levels.round().to(torch.int8), scales.view(torch.int8).reshape(-1, SCALE)], 1)
    return found.reshape(count, channels + parts * SCALE)


def _up(x: Tensor) -> Tensor:
    """Float32 that are not negative as bfloat16, rounded up."""
    upper = (x.view(torch.int32) + 0xFFFF) >> 16
    return torch.where(x.isnan(), 0x7FC0, upper).to(torch.int16).view(torch.bfloat16)


def restored(levels: Tensor, channels: int) -> Tensor:
    """What `quantized` made int8 of, float32 `[M, channels]`; an error of at most half a level."""
    count, columns = levels.shape
    parts = _parts(columns, channels)
    by_part = levels.reshape(count * parts, columns // parts)
    scales = by_part[:, -SCALE:].clone().reshape(-1).view(torch.bfloat16)
    return (by_part[:, :-SCALE].float() * scales.float()[:, None]).reshape(count, channels)


def _parts(columns: int, channels: int) -> int:
    return (columns - channels) // SCALE


def spread(rows: Tensor) -> Tensor:
    """Rows `[M, C]` as int8 `[M, C + ENDS]` for products: levels of -128 to 127 from the smallest number in each row to
    the largest (zero, where that has one sign alone), their scale, and the level of zero.

    Most rows that products read come out of SiLU, ReLU or GELU, and lie on one side of zero.
    """
    x = rows.float()
    least, most = x.amin(1).clamp(max=0), x.amax(1).clamp(min=0)
    width, steps = most - least, torch.full_like(most, STEPS)
    factor = torch.where(width >= SMALLEST, steps / width, 0)
    zero = torch.where(width >= SMALLEST, -128 - (least * factor).round().to(torch.int32), 0)
    levels = (x * factor[:, None]).round().to(torch.int32) + zero[:, None]
    scales = (width / steps).view(torch.int8).reshape(-1, ENDS - 1)
    return torch.cat([levels.to(torch.int8), scales, zero.to(torch.int8)[:, None]], 1)


def spread_values(levels: Tensor) -> Tensor:
    """What `spread` made int8 of, float32 `[M, C]`; an error of at most half a level."""
    scale = levels[:, -ENDS:-1].contiguous().view(torch.float32)
    return (levels[:, :-ENDS].float() - levels[:, -1:]) * scale


def converted(rows: Tensor, dtype: torch.dtype, columns: int) -> Tensor:
    """Rows as so many columns of another dtype hold them."""
    if (rows.dtype == torch.int8) == (dtype == torch.int8):
        return rows.to(dtype)
    if dtype != torch.int8:
        return restored(rows, columns).to(dtype)
    return quantized(rows, _parts(columns, rows.shape[1]))


def copy_rows(dst: Tensor, dst_index: Tensor | None, src: Tensor, src_index: Tensor | None) -> None:
    """`dst[dst_index[m]] = src[src_index[m]]`; both `[rows, C]`, indices int32 `[M]`, zeros for -1 in `src_index`.

    Of one dtype, or of two among float32, bfloat16, float16 and int8 with scales (see `quantized`, it has `SCALE`
    columns more for each part; what has `ENDS` more is made as `spread` does, and only read by products): the copy
    then rounds to the nearest, ties to even.
    """
    rows = fetch(src, src_index)
    for_products = dst.dtype == torch.int8 and dst.shape[1] == rows.shape[1] + ENDS
    store(dst, dst_index, spread(rows) if for_products else converted(rows, dst.dtype, dst.shape[1]))


def by_source(
    rows: IntArray | None, which: IntArray, places: IntArray, count: int
) -> Iterator[tuple[IntArray, IntArray]]:
    """Of each of `count` sources the rows of the target that are of it, of those of `rows` (None: in order), and its
    own: `which` says of each row what source it is of, `places` its row there; all int32 `[M]`.
    """
    for number in range(count):
        among = np.flatnonzero(which == number).astype(np.int32)
        yield among if rows is None else rows[among], places[among]


def copy_many(copies: Iterable[Copy]) -> None:
    """`copy_rows` for each; none reads or writes what another one writes."""
    for each in copies:
        copy_rows(*each)


def swap_rows(kept: Tensor, index: Tensor | None, saved: Tensor) -> None:
    """Exchange `kept[index[m]]` with `saved[m]`; both `[rows, C]` of one dtype."""
    rows = fetch(kept, index).clone()
    copy_rows(kept, index, saved, None)
    saved.copy_(rows)


def _copy(draw: Draw, dtype: torch.dtype) -> Arguments:
    """One whose source and target are drawn apart: any rows, rows in order, all rows."""
    m, channels = draw.size(200, 0, 1, 40), draw.size(640, *CHANNELS, 256)
    to = torch.float64 if dtype == torch.float64 else draw.choice(dtype, *FLOATS)
    dst, src = draw.rows(m + 9, channels, to), draw.rows(m + 5, channels, dtype)
    where, source = draw.distinct(m, m + 9), draw.index(-1, m + 5, m)
    return draw.choice((dst, where, src, source), (dst, None, src, source), (dst, where, src[:m], None),
                       (dst, None, src, None))  # fmt: skip


def _levels(draw: Draw, dtype: torch.dtype) -> Arguments:
    """One to int8, or from it."""
    m, channels = draw.size(200, 0, 1, 40), draw.size(640, *CHANNELS, 256)
    dtype = torch.float32 if dtype == torch.float64 else dtype
    parts = draw.choice(*(n for n in (1, 2, 5) if channels % n == 0))
    one, two = draw.rows(m + 9, channels, dtype), draw.rows(m + 5, channels, dtype)
    one, two = draw.choice((quantized(one, parts), two), (spread(one), two), (one, quantized(two, parts)))
    return one, draw.distinct(m, m + 9), two, draw.index(-1, m + 5, m)


def _copies(draw: Draw, dtype: torch.dtype) -> Arguments:
    return ([_copy(draw, dtype) for _ in range(draw.size(2, 0, 1, 5))],)


def _exchange(draw: Draw, dtype: torch.dtype) -> Arguments:
    m, channels = draw.size(200, 0, 1, 40), draw.size(640, *CHANNELS, 700)
    return draw.rows(m + 9, channels, dtype), draw.distinct(m, m + 9), draw.rows(m, channels, dtype)


COPY_ROWS = KernelSpec(
    "copy_rows",
    "dst[dst_index[m]] = src[src_index[m]], rounded to the dtype of dst",
    copy_rows,
    {"rows": _copy, "levels": _levels},
    within(0, *FLOATS, torch.float64),
    stores=True,
)
COPY_MANY = KernelSpec(
    "copy_many",
    "copy_rows for each of a list",
    copy_many,
    {"rows": _copies},
    within(0, *FLOATS, torch.float64),
    like="copy_rows",
)
SWAP_ROWS = KernelSpec(
    "swap_rows",
    "kept[index[m]], saved[m] = saved[m], kept[index[m]]",
    swap_rows,
    {"rows": _exchange},
    within(0, *FLOATS, torch.float64),
    stores=True,
    like="copy_rows",
)
