"""Activations and other functions of one number."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from support import check_rule

ACTIVATIONS = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "relu in place": lambda x: F.relu_(x * 1.5),
    "leaky relu": lambda x: F.leaky_relu(x, 0.2),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "relu6": lambda x: F.relu6(8 * x),
    "hardtanh": lambda x: F.hardtanh(x, -0.5, 1.5),
    "elu": lambda x: F.elu(x, 0.7),
    "softplus": F.softplus,
    "exp": torch.exp,
    "log": lambda x: (x.abs() + 0.1).log(),
    "sqrt": lambda x: (x.abs() + 0.1).sqrt(),
    "rsqrt": lambda x: (x.abs() + 0.1).rsqrt(),
    "reciprocal": lambda x: (x.abs() + 0.5).reciprocal(),
    "negative": torch.neg,
    "absolute": torch.abs,
    "square": lambda x: x**2,
    "cube": lambda x: x**3,
    "root": lambda x: (x.abs() + 0.1) ** 0.5,
    "clamp": lambda x: x.clamp(-0.5, 1),
    "clamp below": lambda x: x.clamp(min=0.1),
    "clamp above": lambda x: x.clamp(max=0.5),
    "clamp crossed": lambda x: x.clamp(0.5, -0.5),
    "tanh * softplus": lambda x: x * torch.tanh(F.softplus(x)),
    "softsign": F.softsign,
    "mish": F.mish,
    "selu": F.selu,
    "celu": lambda x: F.celu(x, 0.7),
    "scaled elu": lambda x: torch.ops.aten.elu(x, 0.7, 1.3, 0.4),
    "softplus, beta": lambda x: F.softplus(x, 0.5),
    "softplus, threshold": lambda x: F.softplus(x, 2.0, 1.0),
    "threshold": lambda x: F.threshold(x, 0.1, 20.0),
    "hardshrink": lambda x: F.hardshrink(x, 0.4),
    "hardshrink whole": torch.ops.aten.hardshrink,
    "softshrink": lambda x: F.softshrink(x, 0.4),
    "softshrink whole": torch.ops.aten.softshrink,
    "tanhshrink": F.tanhshrink,
    "logsigmoid": F.logsigmoid,
    "rrelu": lambda x: F.rrelu(x, 0.2, 0.5),
    "glu": lambda x: F.glu(x, 1),
    "glu of rows": lambda x: F.glu(x, 2),
    "glu of other channels": lambda x: F.glu(x.view(x.shape[0], 4, 2, 16, 12), 2).flatten(1, 2),
    "glu of the last": lambda x: F.glu(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "exp minus one": torch.expm1,
    "exp2": torch.exp2,
    "log1p": lambda x: x.abs().log1p(),
    "log2, log10": lambda x: (x.abs() + 0.1).log2() + (x.abs() + 0.1).log10(),
    "sine, cosine": lambda x: torch.sin(3 * x) + torch.cos(x),
    "tangent": lambda x: torch.tan(0.1 * x),
    "hyperbolic": lambda x: torch.sinh(x) - torch.cosh(x) * 0.3,
    "erf": lambda x: torch.erf(x) + torch.erfc(2 * x),
    "floor, ceil": lambda x: x.floor() + 0.5 * x.ceil(),
    "sign": lambda x: torch.sign(x) * x.square(),
    "in place": lambda x: (x + 0).mul_(2).add_(1).sub_(0.5).div_(3),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name, batch):
    function = ACTIVATIONS[name]
    check_rule(lambda m, x: function(2 * x), batch)


DENSE = {
    "elu downwards": (lambda x: torch.ops.aten.elu(x, 1.0, 1.0, -0.5), "elu"),
    "places": (lambda x: torch.atan(x), "atan"),
}


@pytest.mark.parametrize("name", DENSE)
def test_what_has_no_rule_runs_densely(name, batch):
    function, fallback = DENSE[name]
    check_rule(lambda m, x: function(x), batch, local=False, sparse=False, fallbacks=[fallback])


def test_prelu(batch):
    check_rule(lambda m, x: m.op(x), batch, lambda: {"op": nn.PReLU(8)})
    check_rule(lambda m, x: m.op(x), batch, lambda: {"op": nn.PReLU()})


def test_prelu_of_a_map_in_another_arrangement(batch):
    """One channel, unshuffled to four that are positions of the old map."""
    check_rule(
        lambda m, x: m.op(F.pixel_unshuffle(x.mean(1, keepdim=True), 2)), batch,
        lambda: {"op": nn.PReLU(4)}, sparse=False, local=False, fallbacks=["prelu"],
    )  # fmt: skip
