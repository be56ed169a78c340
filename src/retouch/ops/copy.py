"""Copy and exchange rows: the snapshot that makes an update undoable."""

from __future__ import annotations

from torch import Tensor

from retouch.ops.row_map import fetch


def copy_rows(dst: Tensor, dst_index: Tensor | None, src: Tensor, src_index: Tensor | None) -> None:
    """`dst[dst_index[m]] = src[src_index[m]]`; both `[rows, C]` of one dtype, indices int32 `[M]`."""
    rows = fetch(src, src_index)
    if dst_index is None:
        dst[: len(rows)] = rows
    else:
        dst[dst_index.long()] = rows


def swap_rows(kept: Tensor, index: Tensor | None, saved: Tensor) -> None:
    """Exchange `kept[index[m]]` with `saved[m]`; both `[rows, C]` of one dtype."""
    rows = fetch(kept, index).clone()
    copy_rows(kept, index, saved, None)
    saved.copy_(rows)
