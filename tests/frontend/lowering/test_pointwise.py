"""Arithmetic, and means over channels."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import retouch
from support import check_rule, compile_all, error, noise

ARITHMETIC = {
    "add a scalar": lambda m, x: x + 2,
    "add a scaled scalar": lambda m, x: torch.add(x, 2, alpha=3),
    "scalar minus": lambda m, x: 1 - x,
    "scalar over": lambda m, x: 1 / (x.abs() + 1),
    "subtract scaled": lambda m, x: torch.sub(x, x * x, alpha=0.5),
    "add scaled by zero": lambda m, x: torch.add(x, x * x, alpha=0),
    "reversed subtraction": lambda m, x: torch.rsub(x, x * x, alpha=2),
    "reversed subtraction of a scalar": lambda m, x: torch.rsub(x, 1.0, alpha=2.0),
    "times one, plus zero": lambda m, x: x * 1 / 1 + 0 - 0.0,
    "boolean": lambda m, x: x * True,
    "with itself": lambda m, x: x * x + x,
    "maximum": lambda m, x: torch.maximum(x, 0.3 * x),
    "minimum": lambda m, x: torch.minimum(x, x * x),
    "clamp by maps": lambda m, x: torch.clamp(x, min=0.5 * x, max=m.gamma[:, None, None]),
    "clamp below by a map": lambda m, x: x.clamp_min(x * x) + x.clamp_max(0.3),
    "between two": lambda m, x: torch.lerp(x, m.map, 0.3) + torch.lerp(x, x * x, m.gamma[:, None, None]),
    "added product": lambda m, x: torch.addcmul(x, x, m.map, value=0.5),
    "added quotient": lambda m, x: torch.addcdiv(x, x, m.map.abs() + 1),
    "power of a number": lambda m, x: 2.0**x,
    "channel vector": lambda m, x: x * m.gamma[:, None, None] + m.beta.view(1, -1, 1, 1),
    "channel vector last": lambda m, x: (x.permute(0, 2, 3, 1) / m.gamma - m.beta).permute(
        0, 3, 1, 2
    ),
    "vector minus map": lambda m, x: m.beta[:, None, None] - x,
    "single number": lambda m, x: x * m.gamma[:1] + m.beta[0],
    "map constant": lambda m, x: x + m.map,
    "map constant minus": lambda m, x: m.map - x,
    "map of one channel": lambda m, x: x * m.map[:, :1],
    "height constant": lambda m, x: x * m.map[0, 0, :, :1],
    "width constant": lambda m, x: x + m.map[0, 0, 0],
    "token positions": lambda m, x: (
        x.flatten(2).transpose(1, 2) + m.map.flatten(2).transpose(1, 2)
    ).transpose(1, 2).view_as(x),
    "channels broadcast": lambda m, x: x[:, :1] * m.gamma[:, None, None],
    "head temperature": lambda m, x: (
        (x.flatten(2).unflatten(1, (2, 4)) * m.beta[:2].view(2, 1, 1)).flatten(1, 2).view_as(x)
    ),
    "head offsets": lambda m, x: (
        (x.flatten(2).unflatten(1, (2, 4)).transpose(2, 3) + m.beta[:4])
        .transpose(2, 3).reshape(x.shape)
    ),
    "mean over channels": lambda m, x: x.mean(1, keepdim=True),
    "centred": lambda m, x: x - x.mean(1, keepdim=True),
    "gate": lambda m, x: x * x.mean(1, keepdim=True).sigmoid(),
    "pixel norm": lambda m, x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-8),
    "mean over the last": lambda m, x: (
        x.permute(0, 2, 3, 1) * x.permute(0, 2, 3, 1).mean(-1, keepdim=True)
    ).permute(0, 3, 1, 2),
    "gated halves": lambda m, x: torch.mul(*x.chunk(2, 1)),
    "geglu": lambda m, x: x.chunk(2, 1)[0] * F.gelu(x.chunk(2, 1)[1]),
    "dropout": lambda m, x: F.dropout(x, 0.5, training=False) * 2,
    "residual of two convolutions": lambda m, x: m.one(x) + m.two(F.silu(x)),
    "residual of a mean": lambda m, x: m.one(x) + x.mean(1, keepdim=True),
    "copied": lambda m, x: (x.clone() + 1).contiguous().to(torch.float32).detach(),
}  # fmt: skip


class Constants(nn.Module):
    """Convolutions and constants that the cases read."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.gamma, self.beta = nn.Parameter(torch.ones(8)), nn.Parameter(torch.ones(8))
        self.register_buffer("map", torch.ones(1, 8, 16, 12))


@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic(name, batch):
    function = ARITHMETIC[name]
    check_rule(lambda m, x: function(m.constants, x), batch, lambda: {"constants": Constants()})


EMBEDDINGS = {
    "time embedding": lambda m, x, t: x + m.op(F.silu(t))[:, :, None, None],
    "scale and shift": lambda m, x, t: x * (1 + t[:, :8, None, None]) + t[:, 8:, None, None],
    "on tokens": lambda m, x, t: (
        x.flatten(2).transpose(1, 2) * (1 + t[:, None, :8]) + t[:, None, 8:]
    ).transpose(1, 2).view_as(x),
    "one per sample": lambda m, x, t: x * t[:, :1, None, None],
    "spread over channels": lambda m, x, t: x[:, :1] * t[:, :8, None, None],
    "embedding minus map": lambda m, x, t: t[:, :8, None, None] - x,
    "outer sample of a batch": lambda m, x, t: x + t[:1, :8, None, None],
}  # fmt: skip


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_values_without_a_grid(name, batch):
    check_rule(EMBEDDINGS[name], batch, lambda: {"op": nn.Linear(16, 8)}, extra=[noise(2, 16, seed=7)])


def test_a_map_that_is_computed_from_the_inputs(batch):
    """A conditioning vector that becomes a whole map is read as rows."""
    check_rule(
        lambda m, x, t: x + m.op(t).view(-1, 8, 16, 12), batch,
        lambda: {"op": nn.Linear(16, 8 * 16 * 12)}, extra=[noise(2, 16, seed=7)],
    )  # fmt: skip


def test_two_images(batch):
    check_rule(
        lambda m, x, z: x * m.op(z) + z[:, :1], batch,
        lambda: {"op": nn.Conv2d(3, 8, 3, padding=1)}, extra=[noise(2, 3, 16, 12, seed=7)],
    )  # fmt: skip


class Means(nn.Module):
    def forward(self, x):
        return x.mean(1, keepdim=True), x.mean(1, keepdim=True, dtype=torch.float32), x.float() * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_means_keep_their_dtype(dtype):
    x = noise(1, 3, 16, 12).to(dtype)
    expected = Means()(x)
    for net in compile_all(Means().eval(), (x,)):
        for found, other in zip(net.record(x)[0], expected, strict=True):
            assert found.dtype == other.dtype
            assert error(found, other) < (1e-2 if other.dtype == torch.bfloat16 else 1e-6)


class Halves(nn.Module):
    def forward(self, x):
        return x.half() * 3


def test_rows_are_float16_where_kernels_take_it():
    """Elsewhere the operation runs densely: a float32 module may compute in float16 inside."""
    x = noise(1, 3, 4, 4)
    for backend in ("cpu", "reference", "triton"):
        net = retouch.compile(Halves().eval(), x, backend=backend)
        assert bool(net.explain().fallbacks) == (backend != "triton"), backend
        assert error(net.record(x)[0], x.half() * 3) < 1e-3
    net = retouch.compile(Halves().eval(), x.half(), backend="triton")
    assert net.program.inputs[0].grid
    assert not net.explain().fallbacks
