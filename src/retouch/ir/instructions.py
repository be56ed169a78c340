"""The instructions of expressions, each with its meaning in PyTorch: the one list of them on the Python side.

Registers are float32 `[rows, C]` or broadcast to it; `x` and `y` are registers, the number is the constant of the
instruction. Kernels say the same in `kernels/cpu/instructions.h` and `kernels/triton/expression.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

LOADS = frozenset({"acc", "rows", "vector", "const"})

BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "lt": lambda x, y: (x < y).float(),
    "le": lambda x, y: (x <= y).float(),
    "eq": lambda x, y: (x == y).float(),
    "masked": lambda x, y: torch.where(y != 0, x, -0.0),  # what is added to -0 stays as it is
}

UNARY: dict[str, Callable[[Tensor, float], Tensor]] = {
    "neg": lambda x, _: -x,
    "abs": lambda x, _: x.abs(),
    "reciprocal": lambda x, _: x.reciprocal(),
    "sqrt": lambda x, _: x.sqrt(),
    "rsqrt": lambda x, _: x.rsqrt(),
    "exp": lambda x, _: x.exp(),
    "expm1": lambda x, _: x.expm1(),
    "log": lambda x, _: x.log(),
    "log1p": lambda x, _: x.log1p(),
    "sin": lambda x, _: x.sin(),
    "cos": lambda x, _: x.cos(),
    "erf": lambda x, _: x.erf(),
    "floor": lambda x, _: x.floor(),
    "silu": lambda x, _: F.silu(x),
    "gelu": lambda x, _: F.gelu(x),
    "gelu_tanh": lambda x, _: F.gelu(x, approximate="tanh"),
    "relu": lambda x, _: x.relu(),
    "leaky_relu": lambda x, slope: F.leaky_relu(x, slope),
    "tanh": lambda x, _: x.tanh(),
    "sigmoid": lambda x, _: x.sigmoid(),
    "pow": lambda x, exponent: x.pow(exponent),
    "hardswish": lambda x, _: F.hardswish(x),
    "hardsigmoid": lambda x, _: F.hardsigmoid(x),
    "elu": lambda x, alpha: F.elu(x, alpha),
    "softplus": lambda x, _: F.softplus(x),
}


def _swapped(x: Tensor, _: float) -> Tensor:
    pairs = F.pad(x, (0, x.shape[-1] % 2)).reshape(*x.shape[:-1], -1, 2)
    return pairs.flip(-1).flatten(-2)[..., : x.shape[-1]]


ROW_WISE: dict[str, Callable[[Tensor, float], Tensor]] = {
    "layer_norm": lambda x, eps: F.layer_norm(x, x.shape[-1:], eps=eps),
    "rms_norm": lambda x, eps: x * (x.square().mean(-1, keepdim=True) + eps).rsqrt(),
    "row_mean": lambda x, _: x.mean(-1, keepdim=True).expand_as(x),
    "swap": _swapped,
    "row_max": lambda x, _: x.amax(-1, keepdim=True).expand_as(x),
}
"""Instructions that need the whole row, or all channels of a head, so they cannot run on a tile of its columns. `swap`
is the other one of each pair of channels, zero where there is none."""
