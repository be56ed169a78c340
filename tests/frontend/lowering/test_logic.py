"""Comparisons and choices."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import retouch
from support import check_rule, noise

CASES = {
    "choice": lambda m, x: torch.where(x > 0, x, 2 * x),
    "number chosen": lambda m, x: torch.where(x < 0.1, 3.0, x),
    "else a number": lambda m, x: torch.where(x >= 0.1, x, 0.5),
    "numbers": lambda m, x: torch.where(x <= 0, 1.0, -1.0) * x,
    "by channel": lambda m, x: torch.where(x[:, :1] > 0, x, m.op(x)),
    "by a constant": lambda m, x: torch.where(m.mask, x, 0.0),
    "from a constant": lambda m, x: torch.where(x > 0, m.op.bias[:, None, None], x),
    "and, or, not": lambda m, x: torch.where((x > 0) & (x < 1) | ~(x > -1), x, -x),
    "exclusive": lambda m, x: torch.where((x > 0) ^ (m.op(x) > 0), x, -x),
    "logical": lambda m, x: torch.where(torch.logical_and(x > 0, x < 1).logical_not(), x, 0.1),
    "equal": lambda m, x: torch.where(F.relu(x) == 0, 1.0, x),
    "unequal": lambda m, x: torch.where(F.relu(x) != x, 1.0, x),
    "filled": lambda m, x: x.masked_fill(x < 0, 3.0),
    "filled, infinite": lambda m, x: x.masked_fill(x < 0, float("-inf")).exp(),
    "filled where a constant is": lambda m, x: x.masked_fill(m.mask, -1.0),
    "mask as a factor": lambda m, x: x * (x > 0),
    "mask as a number": lambda m, x: (x > 0).float() + x,
    "what is not chosen is infinite": lambda m, x: torch.where(x > -100, x, (0 * x).reciprocal()),
    "not a number": lambda m, x: torch.where(torch.isnan(x.log()), x, 1.0),
    "then a convolution": lambda m, x: m.op(torch.where(x > 0, x, 0.5)),
}


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.op = nn.Conv2d(8, 8, 3, padding=1)
        self.register_buffer("mask", torch.ones(16, 12).tril().bool())


@pytest.mark.parametrize("name", CASES)
def test_logic(name, batch):
    function = CASES[name]
    check_rule(lambda m, x: function(m.parts, x), batch, lambda: {"parts": Parts()})


DENSE = {
    "comparison viewed": (lambda m, x: torch.where((x > 0).flatten(2).unflatten(2, x.shape[2:]), x, 1.0), "view"),
    "comparison counted": (lambda m, x: x + (x > 0).sum(1, keepdim=True), "sum_1"),
    "modulo": (lambda m, x: torch.remainder(x, 1.0), "remainder"),
}


@pytest.mark.parametrize("name", DENSE)
def test_what_has_no_rule_runs_densely(name, batch):
    function, fallback = DENSE[name]
    check_rule(function, batch, local=False, sparse=False, fallbacks=[fallback])


class Sides(nn.Module):
    def forward(self, x):
        return x > 0, torch.where(x > 0, x, -x)


def test_a_comparison_is_returned_as_booleans():
    x = noise(1, 3, 8, 8)
    net = retouch.compile(Sides().eval(), x, policy="exact")
    positive, absolute = net.record(x)[0]
    assert torch.equal(positive, x > 0)
    assert torch.equal(absolute, x.abs())


class Given(nn.Module):
    def forward(self, x, mask):
        return torch.where(mask, x, 0.0)


def test_a_mask_that_is_given():
    x = noise(1, 3, 8, 8)
    masks = [noise(1, 1, 8, 8, seed=i) > 0 for i in (1, 2)]
    net = retouch.compile(Given().eval(), (x, masks[0]), policy="exact")
    y, recording = net.record(x, masks[0])
    assert torch.equal(y, torch.where(masks[0], x, 0.0))
    region = retouch.Region.from_mask(torch.ones(8, 8, dtype=torch.bool))
    assert torch.equal(net.update(recording, region, x, masks[1]), torch.where(masks[1], x, 0.0))
