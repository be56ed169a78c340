"""Normalisations."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from support import check_rule, noise


def _apply(m, x):
    return m.op(x)


def _last(m, x):
    return m.op(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _tokens(m, x):
    return m.op(x.flatten(2).transpose(1, 2)).transpose(1, 2).view_as(x)


def _by_hand(m, x):
    """RMS norm as it is written without the operation."""
    x = x.permute(0, 2, 3, 1)
    x = x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6)
    return (x * m.op.weight).permute(0, 3, 1, 2)


def _affine_instance():
    return nn.InstanceNorm2d(8, affine=True)


WHOLE_MAP = {
    "group": (_apply, lambda: nn.GroupNorm(4, 8)),
    "group, one": (_apply, lambda: nn.GroupNorm(1, 8)),
    "group, one channel each": (_apply, lambda: nn.GroupNorm(8, 8, eps=1e-3)),
    "group, not affine": (_apply, lambda: nn.GroupNorm(2, 8, affine=False)),
    "group on tokens": (
        lambda m, x: m.op(x.flatten(2)).view_as(x), lambda: nn.GroupNorm(4, 8),
    ),
    "group, then activation": (lambda m, x: F.silu(m.op(x)), lambda: nn.GroupNorm(4, 8)),
    "group of a concatenation": (
        lambda m, x: m.op(torch.cat([x[:, :4] * 2, F.relu(x)[:, 2:6]], 1)),
        lambda: nn.GroupNorm(4, 8),
    ),
    "group across the parts of a concatenation": (
        lambda m, x: m.op(torch.cat([x[:, :3], F.silu(x[:, 3:])], 1)), lambda: nn.GroupNorm(2, 8),
    ),
    "group of an upsampled part": (
        lambda m, x: m.op(torch.cat([x[:, :4], F.interpolate(x[:, 4:, 8:], x.shape[2:])], 1)),
        lambda: nn.GroupNorm(2, 8),
    ),
    "group of a padded map": (
        lambda m, x: m.op(F.pad(x, (1, 2, 0, 1))), lambda: nn.GroupNorm(2, 8),
    ),
    "group of a slice": (lambda m, x: m.op(x[:, 2:6]), lambda: nn.GroupNorm(2, 4)),
    "twice": (lambda m, x: m.op(F.silu(m.op(x))), lambda: nn.GroupNorm(2, 8)),
    "scaled and shifted": (
        lambda m, x: m.op(x) * 0.5 + m.op.bias[:, None, None], lambda: nn.GroupNorm(2, 8),
    ),
    "instance": (_apply, lambda: nn.InstanceNorm2d(8)),
    "instance, affine": (_apply, _affine_instance),
    "far from zero": (lambda m, x: m.op(x * 0.1 + 20), lambda: nn.GroupNorm(2, 8)),
}  # fmt: skip

ROWS = {
    "layer": (_last, lambda: nn.LayerNorm(8)),
    "layer on tokens": (_tokens, lambda: nn.LayerNorm(8, eps=1e-6)),
    "layer, not affine": (_last, lambda: nn.LayerNorm(8, elementwise_affine=False)),
    "layer without bias": (_last, lambda: nn.LayerNorm(8, bias=False)),
    "layer, then modulation": (
        lambda m, x: F.silu(_last(m, x)) * 2 + x, lambda: nn.LayerNorm(8),
    ),
    "rms": (_last, lambda: nn.RMSNorm(8, eps=1e-5)),
    "rms, default eps": (_last, lambda: nn.RMSNorm(8)),
    "rms, not affine": (_tokens, lambda: nn.RMSNorm(8, elementwise_affine=False)),
    "rms by hand": (_by_hand, lambda: nn.RMSNorm(8)),
    "batch": (_apply, lambda: nn.BatchNorm2d(8)),
    "batch, not affine": (_apply, lambda: nn.BatchNorm2d(8, affine=False)),
    "batch, then relu": (lambda m, x: F.relu(m.op(x)), lambda: nn.BatchNorm2d(8)),
    "batch on tokens": (
        lambda m, x: m.op(x.flatten(2)).view_as(x), lambda: nn.BatchNorm1d(8),
    ),
    "instance with running statistics": (
        _apply, lambda: nn.InstanceNorm2d(8, track_running_stats=True, affine=True),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE_MAP)
def test_norms_of_the_whole_map(name, batch):
    function, part = WHOLE_MAP[name]
    tolerance = 5e-5 if name == "far from zero" else 4e-6
    check_rule(function, batch, lambda: {"op": part()}, local=False, tolerance=tolerance,
               sparse=False)  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_norms_of_rows(name, batch):
    function, part = ROWS[name]
    check_rule(function, batch, lambda: {"op": part()}, tolerance=4e-6)


def test_adaptive_norm(batch):
    """A norm whose scale and shift come from a conditioning vector."""
    check_rule(
        lambda m, x, t: m.op(x) * (1 + t[:, :8, None, None]) + t[:, 8:, None, None], batch,
        lambda: {"op": nn.GroupNorm(2, 8, affine=False)}, extra=[noise(2, 16, seed=3)],
        local=False, sparse=False, tolerance=4e-6,
    )  # fmt: skip
