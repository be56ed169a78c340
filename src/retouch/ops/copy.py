"""Copy and exchange rows: the snapshot that makes an update undoable."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from retouch.ops.row_map import fetch, store

Copy = tuple[Tensor, Tensor | None, Tensor, Tensor | None]
"""Arguments of `copy_rows`."""


def copy_rows(dst: Tensor, dst_index: Tensor | None, src: Tensor, src_index: Tensor | None) -> None:
    """`dst[dst_index[m]] = src[src_index[m]]`; both `[rows, C]`, indices int32 `[M]`, zeros for -1 in `src_index`.

    Of one dtype, or of two among float32, bfloat16 and float16: the copy then rounds to the nearest, ties to even.
    """
    store(dst, dst_index, fetch(src, src_index))


def copy_many(copies: Iterable[Copy]) -> None:
    """`copy_rows` for each; none reads or writes what another one writes."""
    for each in copies:
        copy_rows(*each)


def swap_rows(kept: Tensor, index: Tensor | None, saved: Tensor) -> None:
    """Exchange `kept[index[m]]` with `saved[m]`; both `[rows, C]` of one dtype."""
    rows = fetch(kept, index).clone()
    copy_rows(kept, index, saved, None)
    saved.copy_(rows)
