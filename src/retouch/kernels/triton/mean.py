"""The mean of a whole map from its channel sums."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from retouch.kernels.triton import tiles


@triton.jit
def fold_mean_kernel(out, out_stride, sums, sums_stride, shift, shift_stride, count, C, BC: tl.constexpr):
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    sample, inside = tl.program_id(1), c < C
    total = tl.load(sums + sample * sums_stride + c, mask=inside, other=0.0)
    if shift is not None:
        total += tl.load(shift + sample * shift_stride + c, mask=inside, other=0.0)
    tl.store(out + sample * out_stride + c, (total / count).to(tl.float32), mask=inside)


def fold_mean(out: Tensor, sums: Tensor, shift: Tensor | None, count: int) -> None:
    """See `retouch.ops.mean.reference`."""
    samples, channels = out.shape
    for x in (sums, *([] if shift is None else [shift])):
        if tuple(x.shape) != (samples, 2 * channels):
            raise ValueError(f"sums of shape {list(x.shape)}, expected {[samples, 2 * channels]}")
    block = tiles.columns(channels)
    fold_mean_kernel[(triton.cdiv(channels, block), samples)](
        out, out.stride(0), sums, sums.stride(0), shift, 0 if shift is None else shift.stride(0), float(count),
        channels, BC=block,
    )  # fmt: skip
