"""Reductions over channels, softmax among them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from support import check_rule

CASES = {
    "sum": lambda m, x: x * x.sum(1, keepdim=True),
    "sum without the dimension": lambda m, x: x * x.sum(1)[:, None],
    "means of groups": lambda m, x: x.unflatten(1, (-1, 2)).mean(2) + x[:, :4],
    "means of groups, with the dimension": lambda m, x: x.unflatten(1, (2, -1)).mean(2, keepdim=True).flatten(1, 2) * 2,
    "mean without the dimension": lambda m, x: x.mean(1).unsqueeze(1) + x,
    "largest": lambda m, x: x - x.amax(1, keepdim=True),
    "smallest": lambda m, x: x - x.amin(dim=-3, keepdim=True),
    "largest of max": lambda m, x: x - x.max(1, keepdim=True)[0],
    "smallest of min": lambda m, x: x.min(1, keepdim=True).values,
    "largest and mean": lambda m, x: m.gate(torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True), x], 1)),
    "last": lambda m, x: (x.permute(0, 2, 3, 1) / x.permute(0, 2, 3, 1).sum(-1, keepdim=True).abs().clamp(min=1)
        ).permute(0, 3, 1, 2),
    "normalised": lambda m, x: F.normalize(x, dim=1),
    "normalised, absolute": lambda m, x: F.normalize(x, p=1.0, dim=1),
    "normalised by the largest": lambda m, x: F.normalize(x, p=float("inf"), dim=1),
    "norm": lambda m, x: x / (x.norm(dim=1, keepdim=True) + 1),
    "norm by hand": lambda m, x: (x - x.mean(1, keepdim=True)) / (x.var(1, False, keepdim=True) + 1e-5).sqrt(),
    "deviation": lambda m, x: x / (x.std(1, keepdim=True) + x.var(1, correction=2)[:, None] + 1),
    "softmax": lambda m, x: x.softmax(1),
    "softmax of large numbers": lambda m, x: (100 * x.floor()).softmax(1),
    "softmax of the last": lambda m, x: x.permute(0, 2, 3, 1).softmax(-1).permute(0, 3, 1, 2),
    "softmax2d": lambda m, x: nn.Softmax2d()(x) * x,
    "softmin": lambda m, x: F.softmin(x, 1),
    "softmax of a convolution": lambda m, x: m.op(m.op(x).softmax(1)),
    "log softmax": lambda m, x: F.log_softmax(30 * x, 1),
    "log of a sum": lambda m, x: x - torch.logsumexp(x, 1, keepdim=True),
    "expanded": lambda m, x: x[:, :1].expand(-1, 8, -1, -1) * x,
    "expanded, convolved": lambda m, x: m.op(x.mean(1, keepdim=True).expand_as(x)),
}  # fmt: skip


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.op, self.gate = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(10, 4, 3, padding=1)


@pytest.mark.parametrize("name", CASES)
def test_reductions(name, batch):
    function = CASES[name]
    check_rule(lambda m, x: function(m.parts, x), batch, lambda: {"parts": Parts()}, tolerance=4e-6)


DENSE = {
    "over a width": (lambda m, x: x.amax(3, keepdim=True) + x, "amax"),
    "over groups of channels": (lambda m, x: x.view(-1, 2, 4, 16, 12).softmax(2).view(x.shape), "softmax"),
    "over everything": (lambda m, x: x * x.sum(), "sum_1"),
    "with places": (lambda m, x: x + x.max(1, keepdim=True)[1], "max_1"),
    "of another order": (lambda m, x: F.normalize(x, p=3.0, dim=1), "linalg_vector_norm"),
}


@pytest.mark.parametrize("name", DENSE)
def test_what_has_no_rule_runs_densely(name, batch):
    function, fallback = DENSE[name]
    check_rule(function, batch, local=False, sparse=False, fallbacks=[fallback], tolerance=4e-6)
