"""Which convolutions are computed in tiles."""

import pytest
import torch
from torch import nn

import retouch
from retouch.ops.gemm import Gemm
from retouch.ops.winograd import Winograd
from retouch.passes import in_tiles

X = torch.randn(1, 32, 8, 8)


def conv(inputs=32, outputs=64, kernel=3, **options):
    return nn.Conv2d(inputs, outputs, kernel, padding=options.pop("padding", kernel // 2), **options)


def products(module, x=X, **options):
    net = retouch.compile(module.eval().to(x.dtype), x, **options)
    return [op for op in net.program.ops if isinstance(op, Gemm)]


@pytest.mark.parametrize("module", [
    conv(), conv(padding=0), conv(padding_mode="reflect"), nn.Sequential(nn.Upsample(scale_factor=2), conv()),
    nn.Sequential(conv(), nn.SiLU()),
])  # fmt: skip
def test_wide_convolutions_of_three_taps(module):
    (op,) = products(module)
    assert type(op) is Winograd
    assert op.describe().startswith("winograd[32->64 3x3")
    (plain,) = products(module, policy="exact")
    assert type(plain) is Gemm


@pytest.mark.parametrize("module", [
    conv(stride=2), conv(dilation=2, padding=2), conv(kernel=1), conv(kernel=5), conv(groups=2), conv(outputs=16),
    nn.ConvTranspose2d(32, 64, 3, padding=1), nn.Sequential(conv(kernel=1), nn.Flatten(2)),
])  # fmt: skip
def test_all_others_stay(module):
    assert {type(op) for op in products(module)} == {Gemm}


def test_types_that_are_not_float32_stay():
    (op,) = products(conv(), X.bfloat16())
    assert type(op) is Gemm


def test_int8_stays():
    module = nn.Sequential(conv(32, 64), conv(64, 64), conv(64, 32))
    kinds = [op.kernel for op in products(module, arithmetic="int8")]
    assert kinds[0] == kinds[2] == "winograd"
    assert kinds[1] in ("int8_gemm", "winograd")


def test_a_second_time_changes_nothing():
    program = retouch.compile(conv().eval(), X).program
    assert in_tiles(program).ops == program.ops
