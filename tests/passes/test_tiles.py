"""Which convolutions are computed in tiles."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import retouch
from retouch.incremental import Incremental
from retouch.ir.geometry import Grid
from retouch.kernels import backend
from retouch.kernels.cpu.backend import Cpu
from retouch.ops.gemm import Gemm
from retouch.ops.winograd import Winograd
from retouch.passes import in_tiles
from retouch.plan.policy import Policy
from retouch.plan.region import Region

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


@pytest.mark.parametrize(("native", "kind"), [(torch.float32, Winograd), (torch.bfloat16, Gemm)])
def test_those_of_bfloat16_where_the_processor_multiplies_float32(native, kind):
    kernels = Cpu(backend("cpu").kernels)
    kernels.native = native
    net = Incremental(conv().eval().bfloat16(), (X.bfloat16(),), {}, Policy.named("balanced"), kernels)
    assert [type(op) for op in net.program.ops] == [kind]


def test_int8_stays():
    module = nn.Sequential(conv(32, 64), conv(64, 64), conv(64, 32))
    kinds = [op.kernel for op in products(module, arithmetic="int8")]
    assert kinds[0] == kinds[2] == "winograd"
    assert kinds[1] in ("int8_gemm", "winograd")


def test_a_second_time_changes_nothing():
    program = retouch.compile(conv().eval(), X).program
    assert in_tiles(program, torch.float32).ops == program.ops


def test_kernels_of_which_a_backend_has_only_one():
    kernels = Cpu({name: kernel for name, kernel in backend("cpu").kernels.items() if name != "gemm"})
    net = Incremental(conv().eval(), (X,), {}, Policy.named("balanced"), kernels)
    assert [op.kernel for op in net.program.ops] == ["gemm"]


def test_programs_with_and_without_tiles_are_one_network():
    module = conv().eval()
    digests = {retouch.compile(module, X, policy=policy).digest for policy in ("balanced", "exact")}
    assert len(digests) == 1


class Grids(nn.Module):
    """Two grids of as many positions."""

    def __init__(self):
        super().__init__()
        self.first, self.last = conv(32, 32), conv(32, 32)

    def forward(self, x):
        return self.last(nn.functional.interpolate(self.first(x), size=(9, 16)))


def test_grids_of_one_size_have_tiles_of_their_own():
    module, x = Grids().eval(), torch.randn(1, 32, 12, 12)
    net = retouch.compile(module, x, policy=replace(Policy.named("fast"), crossover=1.0))
    result, recording = net.record(x)
    with torch.no_grad():
        assert torch.allclose(result, module(x), atol=1e-5)
        edited = x.clone()
        edited[..., 3:9, 2:9] += 1
        region = Region.from_images(x, edited)
        got = net.update(recording, region, edited)
        inside = torch.from_numpy(region.on(Grid(9, 16)).mask.copy())[0]
        assert torch.allclose(got[..., inside], module(edited)[..., inside], atol=1e-5)
