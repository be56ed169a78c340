"""Copy and exchange rows."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from retouch.kernels.tensors import Index
from retouch.kernels.triton import tiles
from retouch.kernels.triton.expression import block, look_up, store
from retouch.kernels.triton.handles import count_of


@triton.jit
def copy_rows_kernel(dst, dst_stride, dst_index, src, src_stride, src_index, M, C, BM: tl.constexpr, BC: tl.constexpr):
    m, c, inside = block(M, C, BM, BC)
    row = look_up(src_index, m, m < M)
    made = inside & (row >= 0)[:, None]
    x = tl.load(src + row.to(tl.int64)[:, None] * src_stride + c[None, :], mask=made, other=0.0)
    store(dst, dst_stride, dst_index, m, c, inside, x)


@triton.jit
def swap_rows_kernel(kept, kept_stride, index, saved, saved_stride, M, C, BM: tl.constexpr, BC: tl.constexpr):
    m, c, inside = block(M, C, BM, BC)
    row = look_up(index, m, m < M)
    here = kept + row.to(tl.int64)[:, None] * kept_stride + c[None, :]
    there = saved + m.to(tl.int64)[:, None] * saved_stride + c[None, :]
    x, y = tl.load(here, mask=inside), tl.load(there, mask=inside)
    tl.store(here, y, mask=inside)
    tl.store(there, x, mask=inside)


def _launch(count: int, channels: int) -> tuple[tuple[int, int], dict[str, int]]:
    columns = tiles.columns(channels)
    rows = max(1, 2048 // columns)
    return (triton.cdiv(count, rows), triton.cdiv(channels, columns)), {"BM": rows, "BC": columns}


def copy_rows(dst: Tensor, dst_index: Index | None, src: Tensor, src_index: Index | None) -> None:
    """See `retouch.ops.copy.copy_rows`."""
    given = [x for x in (dst_index, src_index) if x is not None]
    count = len(given[0]) if given else len(src)
    if dst.shape[1] != src.shape[1]:
        raise ValueError(f"dst has {dst.shape[1]} channels, src {src.shape[1]}")
    if dst_index is None and count > len(dst):
        raise ValueError(f"{count} rows are more rows than dst has ({len(dst)})")
    if count:
        grid, sizes = _launch(count, dst.shape[1])
        copy_rows_kernel[grid](
            dst, dst.stride(0), dst_index, src, src.stride(0), src_index, count, dst.shape[1], **sizes
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
