"""Random weights, quickly: no layer stays at zero, activations keep their scale."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

# Drawing 860 million numbers takes ten seconds; drawing this many (a prime, so that no
# layer's rows repeat) and walking through them in a circle takes one.
_POOL = 4_000_037
_LAYERS: tuple[Any, ...] = (nn.Linear, nn.Embedding, nn.modules.conv._ConvNd)


@contextmanager
def without_init() -> Iterator[None]:
    """Leave new linear, embedding and convolution weights uninitialised.

    A large network's own initialisation takes longer than all else; `fill` must follow.
    """
    patches = [patch.object(layer, "reset_parameters", lambda self: None) for layer in _LAYERS]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in patches:
            each.stop()


def fill(module: nn.Module, seed: int, dtype: torch.dtype = torch.float32) -> None:
    """Give every parameter small random values from `seed`, in place, and make it one of `dtype`.

    Weights have variance 1 / fan-in; norm scales lie near 1 and biases near 0.
    Layers that training starts from zero (adaLN, output projections) get values
    too, so that data really flows through them. Buffers are left as built.
    """
    pool = torch.rand(_POOL, generator=torch.Generator().manual_seed(seed)).mul_(2).sub_(1)
    taken = 0
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            _copy_cyclic(pool, taken, parameter)
            _scale(name, parameter)
            parameter.data = parameter.data.to(dtype)
            taken += parameter.numel()


def _copy_cyclic(pool: Tensor, start: int, out: Tensor) -> None:
    flat, done, at = out.view(-1), 0, start % len(pool)
    while done < len(flat):
        count = min(len(pool) - at, len(flat) - done)
        flat[done : done + count] = pool[at : at + count]
        done, at = done + count, 0


def _scale(name: str, parameter: Tensor) -> None:
    """From uniform in [-1, 1] to the range that the parameter's role asks for."""
    if parameter.dim() >= 2:
        parameter.mul_(math.sqrt(3.0 / parameter[0].numel()))
        return
    parameter.mul_(0.1)
    if name.endswith("weight"):
        parameter.add_(1.0)
