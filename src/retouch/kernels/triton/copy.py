"""Copy and exchange rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from retouch.kernels.tensors import Index
from retouch.kernels.transfers import uploadable
from retouch.kernels.triton import tiles
from retouch.kernels.triton.expression import block, for_any_rows, look_up, store
from retouch.kernels.triton.handles import count_of
from retouch.ops import copy as plain

MANY_ROWS, MANY_COLUMNS = 16, 64
"""Rows and columns that a program of `copy_many` copies at a time."""


@for_any_rows
def copy_rows_kernel(dst, dst_stride, dst_index, src, src_stride, src_index, M, C, BM: tl.constexpr, BC: tl.constexpr):
    m, c, inside = block(M, C, BM, BC)
    row = look_up(src_index, m, m < M)
    made = inside & (row >= 0)[:, None]
    x = tl.load(src + row.to(tl.int64)[:, None] * src_stride + c[None, :], mask=made, other=0.0)
    store(dst, dst_stride, dst_index, m, c, inside, x)


@for_any_rows
def swap_rows_kernel(kept, kept_stride, index, saved, saved_stride, M, C, BM: tl.constexpr, BC: tl.constexpr):
    m, c, inside = block(M, C, BM, BC)
    row = look_up(index, m, m < M)
    here = kept + row.to(tl.int64)[:, None] * kept_stride + c[None, :]
    there = saved + m.to(tl.int64)[:, None] * saved_stride + c[None, :]
    x, y = tl.load(here, mask=inside), tl.load(there, mask=inside)
    tl.store(here, y, mask=inside)
    tl.store(there, x, mask=inside)


@triton.jit
def copy_many_kernel(copies, tiles, dst_like, src_like, FIELDS: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr):
    """One program copies the rows of a tile: (copy, first row). A copy is a row of `copies`, see `_fields`."""
    tile = tiles + 2 * tl.program_id(0)
    copy = copies + tl.load(tile) * FIELDS
    dst, src = tl.load(copy).to(dst_like.dtype), tl.load(copy + 3).to(src_like.dtype)
    dst_index, src_index = tl.load(copy + 2), tl.load(copy + 5)
    M, C = tl.load(copy + 6), tl.load(copy + 7)
    m = tl.load(tile + 1) + tl.arange(0, BM)
    target, source = _rows_of(dst_index, m, M), _rows_of(src_index, m, M)
    for start in range(0, C, BC):
        c = start + tl.arange(0, BC)
        inside = (m < M)[:, None] & (c < C)[None, :]
        x = tl.load(
            src + source[:, None] * tl.load(copy + 4) + c[None, :], mask=inside & (source >= 0)[:, None], other=0
        )
        place = dst + target[:, None] * tl.load(copy + 1) + c[None, :]
        tl.store(place, x.to(dst.dtype.element_ty), mask=inside & (target >= 0)[:, None])


@triton.jit
def _rows_of(index, m, M):
    """Rows that an index at an address names; without one `m` itself."""
    given = (m < M) & (index != 0)
    row = tl.load(index.to(tl.pointer_type(tl.int32)) + m, mask=given, other=-1)
    return tl.where(index != 0, row, m).to(tl.int64)


def _launch(count: int, channels: int) -> tuple[tuple[int, int], dict[str, int]]:
    columns = tiles.columns(channels)
    rows = max(1, 2048 // columns)
    return (triton.cdiv(count, rows), triton.cdiv(channels, columns)), {"BM": rows, "BC": columns}


def _count(dst: Tensor, dst_index: Index | None, src: Tensor, src_index: Index | None) -> int:
    """The number of rows that are copied; ValueError when that cannot be."""
    index = src_index if dst_index is None else dst_index
    count = int((src if index is None else index).shape[0])
    if dst.shape[1] != src.shape[1]:
        raise ValueError(f"dst has {dst.shape[1]} channels, src {src.shape[1]}")
    if dst_index is None and count > dst.shape[0]:
        raise ValueError(f"{count} rows are more rows than dst has ({dst.shape[0]})")
    return count


def _scaled(dst: Tensor, src: Tensor) -> bool:
    """True where rows are made int8 or were it, which is PyTorch's work: memory bounds it."""
    return (dst.dtype == torch.int8) != (src.dtype == torch.int8)


def copy_rows(dst: Tensor, dst_index: Index | None, src: Tensor, src_index: Index | None) -> None:
    """See `retouch.ops.copy.copy_rows`."""
    if _scaled(dst, src):
        return plain.copy_rows(dst, dst_index, src, src_index)
    count = _count(dst, dst_index, src, src_index)
    if count:
        grid, sizes = _launch(count, dst.shape[1])
        copy_rows_kernel[grid](
            dst, dst.stride(0), dst_index, src, src.stride(0), src_index, count, dst.shape[1], **sizes
        )


def _fields(dst: Tensor, dst_index: Index | None, src: Tensor, src_index: Index | None) -> tuple[int, ...]:
    """A copy as numbers: addresses (0: no index) and row strides of both sides, rows, channels."""
    where, source = (0 if x is None else x.data_ptr() for x in (dst_index, src_index))
    count = _count(dst, dst_index, src, src_index)
    return dst.data_ptr(), dst.stride(0), where, src.data_ptr(), src.stride(0), source, count, dst.shape[1]


def copy_many(copies: Iterable[tuple[Tensor, Index | None, Tensor, Index | None]]) -> None:
    """See `retouch.ops.copy.copy_many`; one launch for each pair of dtypes, PyTorch's where int8 is made or read."""
    groups: dict[tuple[torch.dtype, torch.dtype], list[tuple[Any, ...]]] = {}
    for each in copies:
        if _scaled(each[0], each[2]):
            plain.copy_rows(*each)
            continue
        groups.setdefault((each[0].dtype, each[2].dtype), []).append(each)
    for group in groups.values():
        _copy_group(group)


def _copy_group(copies: Sequence[tuple[Any, ...]]) -> None:
    dst, _, src, _ = copies[0]
    fields = np.array([_fields(*each) for each in copies], np.int64)
    counts = -(-fields[:, 6] // MANY_ROWS)
    if not counts.any():
        return
    number = np.repeat(np.arange(len(copies)), counts)
    first = (np.arange(len(number)) - np.repeat(np.cumsum(counts) - counts, counts)) * MANY_ROWS
    table = np.concatenate([fields.reshape(-1), np.stack([number, first], 1).reshape(-1)])
    sent = uploadable(table, dst.device).to(dst.device, non_blocking=True)
    copy_many_kernel[(len(number),)](
        sent, sent[fields.size :], dst, src, FIELDS=fields.shape[1], BM=MANY_ROWS, BC=MANY_COLUMNS
    )


def swap_rows(kept: Tensor, index: Index | None, saved: Tensor) -> None:
    """See `retouch.ops.copy.swap_rows`."""
    count = count_of(kept, index)
    if kept.dtype != saved.dtype:
        raise TypeError(f"dtypes differ: kept is {kept.dtype}, saved {saved.dtype}")
    if len(saved) < count:
        raise ValueError(f"saved has fewer rows ({len(saved)}) than are exchanged ({count})")
    if count:
        grid, sizes = _launch(count, kept.shape[1])
        swap_rows_kernel[grid](kept, kept.stride(0), index, saved, saved.stride(0), count, kept.shape[1], **sizes)
