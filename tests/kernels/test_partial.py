"""A backend that lacks a kernel: whole networks are right, and who computes it instead is said."""

import warnings
from functools import cache
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import retouch
from kernels import interpreter
from retouch import Region
from retouch.errors import FallbackWarning
from retouch.kernels.cpu import backend as cpu
from retouch.kernels.registry import described
from retouch.kernels.triton import backend as triton
from retouch.ops.specs import SPECS
from retouch.runtime.needs import needed
from retouch.runtime.state.layered import Snapshot
from retouch.runtime.store import Store
from support import PROBED, SHARED, edit, error, fill, noise, same, spot, state

interpreter.correct()
HOST = torch.device("cpu")
X, MASK = noise(2, 4, 16, 16), spot(16, 16, size=3)


class ManyKernels(nn.Module):
    """A network whose recordings and updates call most kernels, under `PROBED`; `test_specs.py` has all of them."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(4, 16, 3, padding=1)
        self.norm = nn.GroupNorm(4, 16)
        self.filters = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.qkv, self.project = nn.Conv2d(16, 48, 1), nn.Conv2d(64, 16, 1)
        self.last = nn.Conv2d(16, 4, 3, padding=1)

    def forward(self, x):
        x = F.silu(self.norm(self.first(x)))
        x = self.filters(x) * torch.sigmoid(x.mean((2, 3), keepdim=True)) + x.mean(1, keepdim=True)
        q, k, v = (t.flatten(2).transpose(1, 2)[:, None] for t in self.qkv(x).chunk(3, 1))
        x = x + F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).view(x.shape)
        x = F.pixel_shuffle(F.silu(self.project(F.pixel_unshuffle(x, 2))), 2)
        x = F.interpolate(x, scale_factor=4, mode="bilinear")
        return self.last(F.avg_pool2d(F.pad(x.repeat(1, 4, 1, 1), (1, 1, 1, 1)), 2))


def lacking(*names):
    """The cpu backend without some kernels."""
    return cpu.Cpu({name: kernel for name, kernel in cpu.KERNELS.items() if name not in names})


@cache
def module():
    return fill(ManyKernels())


def compile_with(kernels):
    with patch("retouch.kernels.backend", lambda *_: kernels):
        return retouch.compile(module(), (X,), policy=PROBED)


def quietly(kernels):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        return compile_with(kernels)


def run(net):
    """A recording, its update, the update of a snapshot of it, and undo: the results."""
    y, recording = net.record(X)
    snapshot = Snapshot.of(net.record(X)[1], Store())
    before = state(recording)
    changed, region = edit(X, MASK), Region.from_mask(MASK)
    updated = net.update(recording, region, changed)
    restored = net.update(snapshot.recording(), region, changed)
    recording.undo()
    assert same(before, state(recording))
    recording.redo()
    return y, updated, restored


@cache
def whole():
    return run(compile_with(cpu.Cpu()))


def test_a_network_needs_what_it_calls():
    net, asked = compile_with(cpu.Cpu()), set()
    real = net.backend.kernel
    with patch.object(net.backend, "kernel", lambda name: asked.add(name) or real(name)):
        run(net)
    assert set(needed(net.program, net.policy)) == asked
    assert {"fit_probes", "move_sums"} <= asked
    assert not {"fit_probes", "move_sums"} & set(needed(net.program, SHARED))


@pytest.mark.parametrize("name", SPECS)
def test_without_one_kernel_a_network_records_and_updates_right(name):
    """Only of kernels that it calls is anything said."""
    with warnings.catch_warnings(record=True, action="always", category=FallbackWarning) as caught:
        net = compile_with(lacking(name))
    for found, expected in zip(run(net), whole(), strict=True):
        assert error(found, expected) < 1e-5
    called = name in needed(net.program, net.policy)
    reason = f"{name} is computed by the reference backend: the cpu backend has no kernel of that name"
    assert [reason in str(each.message) for each in caught] == [True] * called
    assert (reason in str(net.explain())) == called
    assert reason in described(net.backend, [name])


def test_explain_names_the_backend_of_every_operation():
    net = quietly(lacking("pool", "row_map"))
    by = {line.op.partition("[")[0]: line.backend for line in net.explain().lines}
    assert by["pool"] == "reference"
    assert by["gemm"] == "cpu"
    assert str(net.explain()).count("is computed by the reference backend") == 2


def test_kernels_that_a_program_does_not_call_are_not_missed():
    net = nn.Conv2d(4, 4, 3).eval()
    with patch("retouch.kernels.backend", lambda *_: lacking("pool", "attention")):
        made = retouch.compile(net, (X,))
    assert "computed by the reference backend" not in str(made.explain())


def test_a_backend_without_any_kernel():
    net = quietly(lacking(*SPECS))
    for found, expected in zip(run(net), whole(), strict=True):
        assert error(found, expected) < 1e-5
    assert net.backend.computed_by(["gemm", "pool"]) == "reference"


def test_kernels_without_a_spec_are_refused():
    with pytest.raises(AssertionError, match="kernels of the cpu backend have no KernelSpec: mystery"):
        cpu.Cpu({"mystery": print})


def test_triton_captures_no_graph_of_reference_kernels():
    """They look at tables on the host."""
    device = torch.device("cuda", 0)
    others = {name: kernel for name, kernel in triton.KERNELS.items() if name != "pool"}
    assert triton.Triton(device).graphs
    assert not triton.Triton(device, others).graphs
