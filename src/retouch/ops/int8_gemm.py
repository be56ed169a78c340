"""Indirect GEMM in int8: levels of rows times levels of weights, summed up as integers.

Rows are quantised when they are read, each with a scale and a level of zero of its own; weights once, with a scale for
each output and tap, and levels on both sides of zero. Jacob et al., "Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference" (arXiv 1712.05877), section 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from retouch.ops.copy import ENDS, spread
from retouch.ops.row_map import accumulating
from retouch.ops.spec import CHANNELS, FLOATS, Arguments, Draw, KernelSpec, within

TOP = 127
"""The largest level."""


@dataclass(frozen=True, eq=False)
class Levels:
    """Weights as int8 `[N, T, C / groups]`, and float32 `[N, T]` that the levels of each output and tap are multiplied
    by.
    """

    weight: Tensor
    scales: Tensor
    groups: int

    @staticmethod
    def of(weight: Tensor, groups: int) -> Levels:
        """Those of weights `[N, T, C / groups]`, -127 to 127 of the largest magnitude of each output and tap."""
        scales = weight.float().abs().amax(2) / TOP
        steps = torch.where(scales > 0, scales, 1)[:, :, None]
        return Levels((weight.float() / steps).round().to(torch.int8), scales, groups)

    @property
    def nbytes(self) -> int:
        """Bytes of levels and scales."""
        return self.weight.numel() + 4 * self.scales.numel()


@accumulating
def reference(taken: Tensor, packed: Levels) -> Tensor:
    """`acc[m, n] = sum over t of (sum over c of (a[i, c] - zero[i]) * weight[n, t, c]) * scale[i] * scales[n, t]` with
    `i = index[m, t]`.

    a: rows as `spread` makes them, int8 `[rows, C + ENDS]`. Sums over c are exact, and rounded to float32; each product
    with a scale is, and each sum over t, from the first tap on. Bit for bit.
    """
    count, taps, _ = taken.shape
    scales = taken[..., -ENDS:-1].clone(memory_format=torch.contiguous_format).view(torch.float32)
    levels = (taken[..., :-ENDS].double() - taken[..., -1:]).reshape(count, taps, packed.groups, -1)
    weight = packed.weight.double().reshape(packed.groups, -1, taps, levels.shape[-1])
    products = torch.einsum("mtgc,gntc->mtgn", levels, weight).float().reshape(count, taps, -1)
    products = products * scales * packed.scales.t()
    acc = products[:, 0]
    for tap in range(1, taps):
        acc = acc + products[:, tap]
    return acc


def _arguments(draw: Draw, dtype: torch.dtype, taps: int, groups: int = 1) -> Arguments:
    m, channels, outputs = draw.size(200, 1, 7, 40, 90), draw.size(640, *CHANNELS), draw.size(640, *CHANNELS)
    if groups > 1:
        channels, outputs = draw.size(16, 1, 5, 20), draw.size(16, 3, 8, 40)
    out = draw.target(m, groups * outputs, dtype)
    a = spread(draw.rows(m + 5, groups * channels))
    index = draw.index(-1, m + 5, m, taps) if taps > 1 else draw.choice(draw.index(-1, m + 5, m), None)
    weight = draw.matrix(groups * outputs, taps, channels) / channels**0.5
    return *out, a, index, Levels.of(weight, groups), *draw.epilogue(m, groups * outputs, dtype)


SPEC = KernelSpec(
    "int8_gemm",
    "out[m, n] = program(sum over t of (sum over c of (a[i, c] - zero[i]) * weight[n, t, c]) * scale[i] * "
    "scales[n, t]), i = index[m, t]",
    reference,
    {"3x3": partial(_arguments, taps=9), "1x1": partial(_arguments, taps=1),
     "in groups": partial(_arguments, taps=4, groups=3)},
    within(1e-6, *FLOATS),
    optional=True,
)  # fmt: skip
