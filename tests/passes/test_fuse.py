"""Fusion: what is left of small modules, and that the result stays the same."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from retouch.frontend.capture import capture
from retouch.frontend.lowering import lower
from retouch.ir.program import Program
from retouch.ir.verify import VerificationError, verify
from retouch.ops.gemm import Gemm
from retouch.ops.moments import Moments
from retouch.ops.pool import Pool
from retouch.ops.row_map import Concat, Map, Remap
from retouch.passes import fuse
from support import around, noise


def _program(function, parts=None, extra=()):
    module = around(function, parts, extra=extra)
    return lower(capture(module, (noise(1, 3, 16, 12), *extra), {}))


def _kinds(program):
    return [type(op).__name__ for op in program.ops if op.out.grid or isinstance(op, Moments)]


def _conv(channels=8, **options):
    return {"conv": nn.Conv2d(channels, channels, 3, padding=1, **options)}


CASES = {
    "chain of activations": (lambda m, x: torch.tanh(F.silu(x * 2) + 1), None, ["Gemm"]),
    "residual": (lambda m, x: m.conv(F.silu(x)) + x, _conv, ["Gemm", "Map", "Gemm"]),
    "two consumers": (lambda m, x: m.conv(F.relu(x)) * F.relu(x), _conv, ["Gemm", "Gemm"]),
    "padding": (
        lambda m, x: m.conv(F.pad(x, (1, 1, 1, 1), "reflect")), _conv, ["Gemm", "Gemm"],
    ),
    "padding twice": (
        lambda m, x: m.conv(F.pad(F.pad(x, (1, 1, 1, 1), "reflect"), (0, 2, 0, 1))), _conv,
        ["Gemm", "Gemm"],
    ),
    "upsampling": (
        lambda m, x: m.conv(F.interpolate(x, scale_factor=2.0)), _conv, ["Gemm", "Gemm"],
    ),
    "upsampled activation": (
        lambda m, x: m.conv(F.interpolate(F.silu(x), scale_factor=2.0)), _conv, ["Gemm", "Gemm"],
    ),
    "average of a padded map": (
        lambda m, x: F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3), None, ["Gemm", "Pool"],
    ),
    "maximum of a padded map": (
        lambda m, x: F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3), None, ["Gemm", "Remap", "Pool"],
    ),
    "depthwise": (
        lambda m, x: F.relu(m.conv(x)) + x, lambda: _conv(groups=8), ["Gemm", "Depthwise"],
    ),
    "norm and activation": (
        lambda m, x: m.conv(F.silu(m.norm(x))),
        lambda: {**_conv(), "norm": nn.GroupNorm(2, 8)}, ["Gemm", "Moments", "Map", "Gemm"],
    ),
    "layer norm": (
        lambda m, x: m.norm(F.silu(x).permute(0, 2, 3, 1)) * 2, lambda: {"norm": nn.LayerNorm(8)},
        ["Gemm", "Map"],
    ),
    "unused": (lambda m, x: (m.conv(x), x * 2)[1], _conv, ["Gemm"]),
    "batch norm": (
        lambda m, x: F.relu(m.norm(x)), lambda: {"norm": nn.BatchNorm2d(8)}, ["Gemm"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_left(name):
    function, parts, expected = CASES[name]
    fused = fuse(_program(function, parts))
    if name in ("residual", "two consumers", "upsampled activation", "unused"):
        assert _kinds(fused).count("Gemm") == expected.count("Gemm"), fused
        assert "Remap" not in _kinds(fused)
    else:
        assert _kinds(fused) == expected, fused


def test_a_time_embedding_goes_into_the_epilogue():
    fused = fuse(_program(lambda m, x, t: F.silu(x + t[:, :, None, None]), extra=[noise(1, 8)]))
    (gemm,) = [op for op in fused.ops if isinstance(op, Gemm)]
    assert len(gemm.vectors) == 2
    assert _kinds(fused) == ["Gemm"]


def test_an_output_is_not_fused_away():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x):
            x = self.conv(x)
            return x, F.silu(x)

    fused = fuse(lower(capture(Both().eval(), (noise(1, 3, 8, 8),), {})))
    assert _kinds(fused) == ["Gemm", "Map"]
    assert {o.value for o in fused.outputs} == {op.out for op in fused.ops}


def test_what_a_norm_reads_stays_whole():
    """The statistics are those of the activation, so it cannot be folded into the consumer alone."""
    fused = fuse(_program(lambda m, x: m.norm(F.silu(x)), lambda: {"norm": nn.GroupNorm(2, 8)}))
    (moments,) = [op for op in fused.ops if isinstance(op, Moments)]
    producer = fused.producers()[moments.parts[0]]
    assert isinstance(producer, Gemm)
    assert "silu" in producer.describe()


def test_concatenations_keep_their_parts():
    fused = fuse(_program(lambda m, x: torch.cat([F.silu(x), torch.cat([x, x * 2], 1)], 1)))
    (joined,) = [op for op in fused.ops if isinstance(op, Concat)]
    assert [p.channels for p in joined.parts] == [8, 8, 8]


def test_fusion_leaves_the_program_it_was_given_alone():
    program = _program(lambda m, x: F.silu(x * 2) + 1)
    before = str(program)
    fuse(program)
    assert str(program) == before


def test_the_verifier_names_the_pass():
    program = _program(lambda m, x: F.silu(x))
    first, *others = program.ops
    with pytest.raises(VerificationError, match=r"after shuffling: .* before definition"):
        verify(Program(program.inputs, program.constants, (*others, first), program.outputs), "shuffling")
    with pytest.raises(VerificationError, match="defined twice"):
        verify(Program(program.inputs, program.constants, (*program.ops, first), program.outputs), "it")


def test_the_printer_shows_operands_and_results():
    program = fuse(_program(lambda m, x: F.avg_pool2d(F.silu(x), 2)))
    text = str(program)
    assert "input %x: 1x16x12 rows x 3 float32" in text
    assert "gemm[3->8 3x3 silu(add(acc, v0))](%x" in text
    assert text.splitlines()[-1] == f"return %{program.outputs[0].value.name}"
    assert any(isinstance(op, Pool) for op in program.ops)
    assert not any(isinstance(op, Map | Remap) for op in program.ops)
