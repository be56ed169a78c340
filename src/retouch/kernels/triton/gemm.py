"""Indirect GEMM: an implicit matrix product whose rows come through an index table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import triton
import triton.language as tl
from torch import Tensor

from retouch.kernels.tensors import Index
from retouch.kernels.triton import tiles
from retouch.kernels.triton.expression import block, evaluate, for_any_rows, look_up, store
from retouch.kernels.triton.handles import (
    IDENTITY,
    Code,
    RowOperand,
    check_index,
    check_widths,
    count_of,
    row_arguments,
    vector_arguments,
)


@dataclass(frozen=True, eq=False)
class Packed:
    """Weights `[groups, T, C / groups, N / groups]`: a tile of columns is contiguous."""

    weight: Tensor

    @staticmethod
    def of(weight: Tensor, groups: int) -> Packed:
        """From `[N, T, C / groups]`; ValueError when N does not divide into `groups`."""
        outputs, taps, inputs = weight.shape
        if outputs % groups:
            raise ValueError(f"{outputs} output channels do not divide into {groups} groups")
        split = weight.detach().reshape(groups, outputs // groups, taps, inputs)
        return Packed(split.permute(0, 2, 3, 1).contiguous())

    @property
    def nbytes(self) -> int:
        """Bytes of the weights."""
        return self.weight.numel() * self.weight.element_size()

    @cached_property
    def tile(self) -> tiles.Tile:
        return tiles.tile(tiles.architecture(), self.weight.dtype, self.weight.shape[3])

    @cached_property
    def split(self) -> int:
        """Parts of the sum; from the shape of the weights alone."""
        groups, taps, inputs, outputs = self.weight.shape
        return tiles.split(groups * outputs, taps, inputs, self.tile)


@for_any_rows
def gemm_kernel(
    out, out_stride, out_index, partial, a, a_stride, index, weight, M, N, C, TAPS, rows, vectors, sample,
    CODE: tl.constexpr, PRECISION: tl.constexpr, SPLIT: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """N and C are per group. With SPLIT > 1 parts of the sum over taps and channels go to `partial` float32
    `[SPLIT, M, groups * N]`.
    """
    blocks = tl.cdiv(N, BN)
    group = tl.program_id(1) // blocks
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) % blocks * BN + tl.arange(0, BN)
    if tl.max(look_up(out_index, m, m < M)) < 0:
        return  # padding of a table
    deep = tl.cdiv(C, BK)
    share = tl.cdiv(deep * TAPS, SPLIT)
    first = tl.program_id(2) * share
    acc = tl.zeros((BM, BN), tl.float32)
    for step in range(first, tl.minimum(first + share, deep * TAPS)):
        tap = step // deep
        k = step % deep * BK + tl.arange(0, BK)
        row = look_up(index, m * TAPS + tap, m < M).to(tl.int64)
        x = tl.load(a + row[:, None] * a_stride + (group * C + k)[None, :],
                    mask=((m < M) & (row >= 0))[:, None] & (k < C)[None, :], other=0.0)  # fmt: skip
        panel = weight + (group * TAPS + tap).to(tl.int64) * C * N
        w = tl.load(panel + k[:, None] * N + n[None, :], mask=(k < C)[:, None] & (n < N)[None, :], other=0.0)
        acc = tl.dot(x, w, acc, input_precision=PRECISION)
    c = group * N + n
    inside = (m < M)[:, None] & (n < N)[None, :]
    width = N * (tl.num_programs(1) // blocks)
    if SPLIT == 1:
        y = evaluate(CODE, acc, m, c, inside, width, rows, vectors, sample)
        store(out, out_stride, out_index, m, c, inside, y)
    else:
        row = tl.program_id(2).to(tl.int64) * M + m
        tl.store(partial + row[:, None] * width + c[None, :], acc, mask=inside)


@for_any_rows
def join_kernel(
    out, out_stride, out_index, partial, M, N, rows, vectors, sample,
    CODE: tl.constexpr, SPLIT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """The parts of the sums added in order, then the epilogue."""
    m, c, inside = block(M, N, BM, BN)
    acc = tl.zeros((BM, BN), tl.float32)
    for part in range(SPLIT):
        row = (m + part * M).to(tl.int64)
        acc += tl.load(partial + row[:, None] * N + c[None, :], mask=inside, other=0.0)
    y = evaluate(CODE, acc, m, c, inside, N, rows, vectors, sample)
    store(out, out_stride, out_index, m, c, inside, y)


def _check(out: Tensor, a: Tensor, index: Index | None, packed: Packed, count: int) -> None:
    groups, taps, inputs, outputs = packed.weight.shape
    if a.dtype != packed.weight.dtype:
        raise TypeError(f"a is {a.dtype}, the packed weights are {packed.weight.dtype}")
    if a.shape[1] != groups * inputs or out.shape[1] != groups * outputs:
        raise ValueError(
            f"the weights take {groups * inputs} channels to {groups * outputs}; a has {a.shape[1]}, out {out.shape[1]}"
        )
    check_index(index, count, taps)


def gemm(
    out: Tensor,
    out_index: Index | None,
    a: Tensor,
    index: Index | None,
    packed: Packed,
    program: Code | None,
    rows: list[RowOperand],
    vectors: list[Tensor],
    sample: Index | None,
) -> None:
    """See `retouch.ops.gemm.reference`."""
    count = count_of(out, out_index)
    _check(out, a, index, packed, count)
    check_widths([*(x for x, _ in rows), *vectors], out.shape[1])
    if count == 0:
        return
    groups, taps, inputs, outputs = packed.weight.shape
    tile, parts = packed.tile, packed.split
    partial = None
    if parts > 1:
        partial = torch.empty(parts, count, out.shape[1], dtype=torch.float32, device=out.device)
    target = out, out.stride(0), out_index, partial
    tail = row_arguments(rows), vector_arguments(vectors, sample), sample
    code = IDENTITY if program is None else program
    row_tiles = triton.cdiv(count, tile.rows)
    gemm_kernel[(row_tiles, groups * triton.cdiv(outputs, tile.columns), parts)](
        *target, a, a.stride(0), index, packed.weight, count, outputs, inputs, taps, *tail,
        CODE=code, PRECISION=tiles.precision(), SPLIT=parts, BM=tile.rows, BN=tile.columns, BK=tile.depth,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    if parts > 1:
        join_kernel[(triton.cdiv(count, 16), triton.cdiv(out.shape[1], 128))](
            *target, count, out.shape[1], *tail, CODE=code, SPLIT=parts, BM=16, BN=128
        )
