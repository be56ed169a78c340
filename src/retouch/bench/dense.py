"""The dense baselines: the same module in each way that PyTorch runs it well."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from retouch.models import Inputs, tensor_of

EAGER, CHANNELS_LAST, COMPILED = "eager", "channels_last", "compiled"


def dense_runs(module: nn.Module, inputs: Inputs, compiled: bool = True) -> Mapping[str, Callable[[], Tensor]]:
    """Ways to run `module` on `inputs`, by kind, each ready to be called and timed.

    Channels last is another way where there are convolutions. `compiled` adds torch.compile with static shapes, over
    channels-last weights, which is its fastest setting on a CPU; on a GPU it replays CUDA graphs. Its first call
    compiles.
    """
    runs, last, moved = {EAGER: partial(run_dense, module, inputs)}, module, inputs
    if any(weight.dim() == 4 for weight in module.parameters()):
        last = _channels_last_copy(module)
        moved = inputs.with_image(inputs.args[0].contiguous(memory_format=torch.channels_last))
        runs[CHANNELS_LAST] = partial(run_dense, last, moved)
    if compiled:
        mode = "reduce-overhead" if inputs.args[0].is_cuda else "default"
        runs[COMPILED] = partial(run_dense, torch.compile(last, dynamic=False, mode=mode), moved)
    return runs


def run_dense(module: Callable[..., object], inputs: Inputs) -> Tensor:
    """One run without gradients; the result's first tensor."""
    with torch.no_grad():
        return tensor_of(module(*inputs.args, **inputs.kwargs))


def _channels_last_copy(module: nn.Module) -> nn.Module:
    """A channels-last copy that shares every weight but the convolutions'."""
    shared = {id(weight): weight for weight in module.parameters() if weight.dim() != 4}
    duplicate = copy.deepcopy(module, dict(shared))
    to_channels_last(duplicate)
    return duplicate


def to_channels_last(module: nn.Module) -> None:
    """Weights of two-dimensional convolutions channels last; those of others, as Conv3d's, stay."""
    for weight in module.parameters():
        if weight.dim() == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
