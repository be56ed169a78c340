"""Convolutions and linear layers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from support import check_rule


def _conv(*args, **kwargs):
    return lambda m, x: m.op(x), lambda: {"op": nn.Conv2d(*args, **kwargs)}


def _transposed(*args, **kwargs):
    return lambda m, x: m.op(x), lambda: {"op": nn.ConvTranspose2d(*args, **kwargs)}


def _padded(pad, mode, kernel=3):
    return lambda m, x: m.op(F.pad(x, pad, mode)), lambda: {"op": nn.Conv2d(8, 6, kernel)}


def _frame(*args, pad=(0, 0, 0, 0, 0, 0), **kwargs):
    """A convolution over a clip of one frame, padded before."""
    return lambda m, x: m.op(F.pad(x[:, :, None], pad))[:, :, 0], lambda: {"op": nn.Conv3d(8, 6, *args, **kwargs)}


def _linear(m, x):
    return m.op(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _tokens(m, x):
    return m.op(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])


def _flat_tokens(m, x):
    y = m.op(x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]))
    return y.view(x.shape[0], *x.shape[2:], -1).permute(0, 3, 1, 2)


def _product(m, x):
    return (x.permute(0, 2, 3, 1) @ m.op.weight.t()).permute(0, 3, 1, 2)


def _addmm(m, x):
    y = torch.addmm(m.op.bias, x.permute(0, 2, 3, 1).reshape(-1, 8), m.op.weight.t())
    return y.view(x.shape[0], *x.shape[2:], -1).permute(0, 3, 1, 2)


def _linear_part(bias=True):
    return lambda: {"op": nn.Linear(8, 5, bias=bias)}


CASES = {
    "1x1": _conv(8, 6, 1),
    "1x1 strided": _conv(8, 6, 1, stride=2),
    "3x3": _conv(8, 6, 3, padding=1),
    "no bias": _conv(8, 6, 3, padding=1, bias=False),
    "valid": _conv(8, 6, 3),
    "5x3": _conv(8, 6, (5, 3), padding=(2, 1)),
    "4x4 stride 2": _conv(8, 6, 4, stride=2, padding=1),
    "7x7 stride 3": _conv(8, 6, 7, stride=3, padding=3),
    "stride (2, 1)": _conv(8, 6, 3, stride=(2, 1), padding=1),
    "dilated": _conv(8, 6, 3, padding=2, dilation=2),
    "dilated (1, 3)": _conv(8, 6, 3, padding=(1, 3), dilation=(1, 3)),
    "padding wider than the kernel": _conv(8, 6, 1, padding=2),
    "patches": _conv(8, 6, 2, stride=2),
    "same": _conv(8, 6, 3, padding="same"),
    "same, even kernel": _conv(8, 6, (4, 2), padding="same"),
    "same, dilated": _conv(8, 6, 3, padding="same", dilation=2),
    "padding valid": _conv(8, 6, 3, padding="valid"),
    "groups 2": _conv(8, 6, 3, padding=1, groups=2),
    "groups 4": _conv(8, 12, 3, padding=1, groups=4),
    "depthwise": _conv(8, 8, 3, padding=1, groups=8),
    "depthwise strided": _conv(8, 8, 5, stride=2, padding=2, groups=8, bias=False),
    "depthwise dilated": _conv(8, 8, 3, padding=2, dilation=2, groups=8),
    "depthwise 1x1": _conv(8, 8, 1, groups=8),
    "depthwise multiplied": _conv(8, 16, 3, padding=1, groups=8),
    "one output channel": _conv(8, 1, 3, padding=1),
    "mode reflect": _conv(8, 6, 3, padding=1, padding_mode="reflect"),
    "mode replicate": _conv(8, 6, 5, padding=2, padding_mode="replicate"),
    "mode circular": _conv(8, 6, 3, padding=1, padding_mode="circular"),
    "pad asymmetric": _padded((0, 1, 0, 1), "constant"),
    "pad wide": _padded((3, 1, 2, 4), "constant", 5),
    "pad negative": _padded((-1, 2, 1, -3), "constant"),
    "pad reflect": _padded((3, 3, 3, 3), "reflect", 7),
    "pad reflect asymmetric": _padded((2, 1, 0, 3), "reflect"),
    "pad replicate": _padded((1, 2, 3, 0), "replicate"),
    "pad circular": _padded((1, 1, 1, 1), "circular"),
    "transposed": _transposed(8, 6, 2, stride=2),
    "transposed 4x4": _transposed(8, 6, 4, stride=2, padding=1),
    "transposed output padding": _transposed(8, 6, 3, stride=2, padding=1, output_padding=1),
    "transposed output padding (0, 1)": _transposed(8, 6, 3, stride=(1, 2), padding=1, output_padding=(0, 1)),
    "transposed stride 1": _transposed(8, 6, 3, padding=1),
    "transposed stride 3": _transposed(8, 6, 2, stride=3),
    "transposed dilated": _transposed(8, 6, 3, stride=2, dilation=2, padding=1),
    "transposed groups": _transposed(8, 6, 3, stride=2, groups=2, bias=False),
    "transposed depthwise": _transposed(8, 8, 4, stride=2, padding=1, groups=8),
    "frame, causal": _frame(3, pad=(1, 1, 1, 1, 2, 0)),
    "frame, padded by the convolution": _frame(3, padding=1, stride=(1, 2, 2)),
    "frame, padded by both": _frame((4, 3, 3), padding=(1, 1, 0), pad=(0, 0, 0, 0, 1, 0)),
    "frame, dilated": _frame(3, dilation=(2, 1, 2), pad=(0, 0, 0, 0, 2, 2)),
    "frame 1x1x1": _frame(1, bias=False),
    "frame, grouped": _frame((1, 3, 3), padding=(0, 1, 1), groups=2),
    "linear": (_linear, _linear_part()),
    "linear without bias": (_linear, _linear_part(bias=False)),
    "linear on tokens": (_tokens, _linear_part()),
    "linear on flat tokens": (_flat_tokens, _linear_part()),
    "product with a weight": (_product, _linear_part()),
    "addmm": (_addmm, _linear_part()),
    "weight first": (lambda m, x: (m.op.weight @ x.flatten(2)).unflatten(2, x.shape[2:]), _linear_part()),
    "einsum": (lambda m, x: torch.einsum("bchw,oc->bohw", x, m.op.weight), _linear_part()),
    "einsum, weight first": (
        lambda m, x: torch.einsum("oc, bchw -> bhwo", m.op.weight, x).permute(0, 3, 1, 2),
        _linear_part(),
    ),
    "einsum, transposed weight": (
        lambda m, x: torch.einsum("bnc,co->bno", x.flatten(2).mT, m.op.weight.T).mT.unflatten(2, x.shape[2:]),
        _linear_part(),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_convolutions_and_linear_layers(name, batch):
    function, parts = CASES[name]
    check_rule(function, batch, parts)


@pytest.mark.parametrize(
    "wrap",
    [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm],
    ids=["weight norm", "spectral norm"],
)
def test_weights_computed_from_parameters(wrap, batch):
    check_rule(lambda m, x: m.op(x), batch, lambda: {"op": wrap(nn.Conv2d(8, 6, 3))})


CLIPS = {
    "several frames": lambda m, x: m.op(F.pad(x[:, :, None], (0, 0, 0, 0, 2, 2)))[:, :, 1],
    "frames that repeat": lambda m, x: m.op(F.pad(x[:, :, None], (1, 1, 1, 1, 2, 0), "replicate"))[:, :, 0],
    "zeros alone": lambda m, x: (
        F.conv3d(F.pad(x[:, :, None], (0, 0, 0, 0, 4, 0)), m.op.weight, stride=(4, 1, 1))[:, :, 0]
        + x[:, :6, 1:-1, 1:-1]
    ),
    "frames read otherwise": lambda m, x: F.pad(x[:, :, None], (0, 0, 0, 0, 1, 0)).sum(2),
}


@pytest.mark.parametrize("name", CLIPS)
def test_clips_of_several_frames_run_densely(name, batch):
    check_rule(CLIPS[name], batch, lambda: {"op": nn.Conv3d(8, 6, 3)}, local=False, sparse=False, fallbacks=None)


def test_weights_computed_from_the_input_run_densely(batch):
    check_rule(
        lambda m, x: F.conv2d(x, m.op.weight * x.mean((0, 2, 3), keepdim=True), padding=1),
        batch, lambda: {"op": nn.Conv2d(8, 8, 3)}, local=False, sparse=False,
        fallbacks=["conv2d_1"] if batch == 1 else ["mean", "conv2d_1"],  # of one sample it is a mean of the map
    )  # fmt: skip


EINSUMS = {
    "two indices": lambda m, x: torch.einsum("bchw,ocx->bohw", x, m.op.weight.unflatten(1, (-1, 1))),
    "over positions": lambda m, x: torch.einsum("bchw,ow->bcho", x, m.square),
    "dots": lambda m, x: torch.einsum("b...c,oc->b...o", x.permute(0, 2, 3, 1), m.op.weight).permute(0, 3, 1, 2),
    "sum": lambda m, x: torch.einsum("bchw->bhw", x)[:, None] + x,
}


class Weights(nn.Module):
    def __init__(self):
        super().__init__()
        self.op, self.square = nn.Linear(8, 8), nn.Parameter(torch.ones(12, 12))


@pytest.mark.parametrize("name", EINSUMS)
def test_einsums_that_are_no_linear_layer_run_densely(name, batch):
    function = EINSUMS[name]
    check_rule(lambda m, x: function(m.parts, x), batch, lambda: {"parts": Weights()}, local=False, sparse=False,
               fallbacks=["einsum"])  # fmt: skip


def test_a_map_one_position_wide(batch):
    check_rule(
        lambda m, x: m.op(x), batch, lambda: {"op": nn.Conv2d(8, 6, 3, padding=1)},
        size=(16, 1),
    )  # fmt: skip
