"""Pointwise chains over rows."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from retouch.ir.instructions import ROW_WISE
from retouch.kernels.tensors import Index
from retouch.kernels.triton import tiles
from retouch.kernels.triton.expression import block, evaluate, for_any_rows, store
from retouch.kernels.triton.handles import Code, RowOperand, check_widths, count_of, row_arguments, vector_arguments

TILE = 4096
"""Numbers that a program computes, as long as a row fits."""


@for_any_rows
def row_map_kernel(
    out, out_stride, out_index, M, width, channels, rows, vectors, sample,
    CODE: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    m, c, inside = block(M, width, BM, BC)
    before = tl.program_id(2) * width
    y = evaluate(CODE, None, m, c, inside, width, rows, vectors, sample, before)
    store(out, out_stride, out_index, m, before + c, inside & (c < channels)[None, :], y)


def row_map(
    out: Tensor,
    out_index: Index | None,
    program: Code,
    rows: list[RowOperand],
    vectors: list[Tensor],
    sample: Index | None,
    heads: int = 1,
) -> None:
    """See `retouch.ops.row_map.reference`."""
    count, channels = count_of(out, out_index), out.shape[1]
    if count == 0:
        return
    if channels % heads:
        raise ValueError(f"{channels} channels do not divide into {heads} heads")
    operands = [*(x for x, _ in rows), *vectors]
    whole = max([channels, *(x.shape[1] for x in operands)]) if channels == 1 else channels
    width, channels = whole // heads, channels // heads
    check_widths(operands, whole, width)
    by_row = heads > 1 or any(op in ROW_WISE for op, *_ in program)
    columns = triton.next_power_of_2(width) if by_row else tiles.columns(width)
    tile = max(1, min(TILE // columns, 64))
    grid = triton.cdiv(count, tile), triton.cdiv(width if by_row else channels, columns), heads
    head = width if heads > 1 else 0
    row_map_kernel[grid](
        out, out.stride(0), out_index, count, width, channels,
        row_arguments(rows, head), vector_arguments(vectors, sample, head), sample, CODE=program, BM=tile, BC=columns,
    )  # fmt: skip
