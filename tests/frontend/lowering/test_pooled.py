"""Global pooling, and what multiplies by it."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import retouch
from retouch import Region
from retouch.runtime.state.layered import Snapshot
from retouch.runtime.store import Store
from support import PROBED, SHARED, around, check, check_rule, compile_all, edit, error, noise, spot


def _gate(m, x):
    """Squeeze and excitation (Hu et al., 2018)."""
    return x * m.up(F.relu(m.down(F.adaptive_avg_pool2d(x, 1)))).sigmoid()


def _tokens(m, x):
    tokens = x.flatten(2).transpose(1, 2)
    return (tokens * m.linear(tokens.mean(1, keepdim=True))).transpose(1, 2).view_as(x)


def _channels_last(x):
    return x - x.mean((1, 2), keepdim=True)


CASES = {
    "squeeze and excitation": _gate,
    "simple channel attention": lambda m, x: m.up(x[:, :4] * x[:, 4:] * m.small(
        F.adaptive_avg_pool2d(x[:, :4] * x[:, 4:], 1))),
    "mean": lambda m, x: x - x.mean((2, 3), keepdim=True),
    "mean without its dimensions": lambda m, x: x * m.linear(x.mean((-1, -2)))[:, :, None, None].sigmoid(),
    "sum": lambda m, x: x + x.sum((2, 3), keepdim=True) / 192,
    "channels last": lambda m, x: _channels_last(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "tokens": _tokens,
    "of an activation": lambda m, x: x * F.silu(x).mean((2, 3), keepdim=True),
    "of what is normalised": lambda m, x: m.norm(x) * x.mean((2, 3), keepdim=True),
    "twice": lambda m, x: _gate(m, m.conv(_gate(m, x))),
    "of a concatenation": lambda m, x: torch.cat([x, x.abs()], 1) * torch.cat([x, x.abs()], 1).mean((2, 3), True),
    "of one channel": lambda m, x: x * F.adaptive_avg_pool2d(x[:, :1], 1),
}  # fmt: skip


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up, self.small = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1), nn.Conv2d(4, 4, 1)
        self.conv, self.linear, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 8), nn.GroupNorm(2, 8)


@pytest.mark.parametrize("name", CASES)
def test_pooling(name, batch):
    """Under `exact` the mean is global: with it everything that depends on it changes."""
    function = CASES[name]
    check_rule(
        lambda m, x: function(m.parts, x), batch, lambda: {"parts": Parts()}, local=False, sparse=False, tolerance=4e-6
    )


DENSE = {
    "over one dimension": (lambda m, x: x * x.mean(2, keepdim=True), "mean"),
    "over everything": (lambda m, x: x - x.mean((1, 2, 3), keepdim=True), "mean"),
    "over samples": (lambda m, x: x - x.mean((0, 2, 3), keepdim=True), "mean"),
}


@pytest.mark.parametrize("name", DENSE)
def test_what_has_no_rule_runs_densely(name):
    function, fallback = DENSE[name]
    check_rule(function, 2, local=False, sparse=False, fallbacks=[fallback], tolerance=4e-6)


def test_of_a_map_one_position_wide():
    module = around(lambda m, x: x * F.adaptive_avg_pool2d(x, 1), size=(16, 1))
    check(module, (noise(1, 3, 16, 1),), [spot(16, 1, 3, 0)], local=False, sparse=False)


def _updates(policy):
    """(network, result of an update, edited input, module, mask of what was computed) for every backend."""
    module, x, mask = around(_gate_of_parts, lambda: {"parts": Parts()}), noise(1, 3, 16, 12), spot(16, 12)
    edited = edit(x, mask)
    for net in compile_all(module, (x,), policy):
        assert not net.explain().fallbacks
        y, recording = net.record(x)
        region = Region.from_mask(mask)
        updated = net.update(recording, region, edited)
        active = net.active_mask(region)[:, None].expand_as(y)
        assert torch.equal(updated[~active], y[~active])
        recording.undo()
        assert torch.equal(net.update(recording, Region.from_mask(torch.zeros_like(mask)), x), y)
        yield module, x, edited, updated, active


def _gate_of_parts(m, x):
    return _gate(m.parts, x)


def test_sums_follow_the_active_rows():
    """Every row that changes is computed, so the mean is that of the edited map."""
    for module, _, edited, updated, active in _updates(SHARED):
        assert error(updated[active], module(edited)[active]) < 4e-6


def test_recorded_means_stay():
    for module, x, edited, updated, active in _updates(replace(SHARED, stats="recorded")):
        before, after = module.stem(x), module.stem(edited)
        parts = module.parts
        gate = parts.up(F.relu(parts.down(F.adaptive_avg_pool2d(before, 1)))).sigmoid()
        assert error(updated[active], (after * gate)[active]) < 4e-6


def test_probes_estimate_the_mean():
    """No row beside the edit moves, so the estimate is the mean."""
    for module, _, edited, updated, active in _updates(PROBED):
        assert error(updated[active], module(edited)[active]) < 4e-6


def test_snapshots_hold_means():
    module, x, mask = around(_gate_of_parts, lambda: {"parts": Parts()}), noise(1, 3, 16, 12), spot(16, 12)
    net = retouch.compile(module, (x,), policy=SHARED)
    _, recording = net.record(x)
    expected = net.update(recording, Region.from_mask(mask), edit(x, mask))
    restored = Snapshot.of(net.record(x)[1], Store()).recording()
    assert torch.equal(net.update(restored, Region.from_mask(mask), edit(x, mask)), expected)
    again = restored.snapshot.recording()
    assert error(net.update(again, Region.from_mask(mask), x), module(x)) < 4e-6
