"""Keys and values apart from what else one product makes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import retouch
from retouch.frontend.capture import capture
from retouch.frontend.lowering import lower
from retouch.ops.gemm import Gemm
from retouch.passes import cut, fuse
from support import EXACT, error, fill, noise, spot

SIZE, WIDTH, HIDDEN = 8, 32, 48


class Fused(nn.Module):
    """Attention and a perceptron beside it, of one product as in FLUX.2."""

    def __init__(self, parts=(WIDTH, WIDTH, WIDTH, HIDDEN), bias=True, straddling=False, returned=False):
        super().__init__()
        self.parts, self.straddling, self.returned = parts, straddling, returned
        self.both = nn.Linear(WIDTH, sum(parts), bias=bias)
        self.out = nn.Linear(WIDTH + sum(parts[3:]), 3)

    def forward(self, x):
        size = x.shape[2:]
        made = self.both(x.flatten(2).transpose(1, 2))
        q, k, v, *others = made.split(self.parts, 2)
        heads = [part.unflatten(2, (2, WIDTH // 2)).transpose(1, 2) for part in (q, F.silu(k), v)]
        found = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        if self.straddling:
            found = found + made[..., WIDTH // 2 : WIDTH // 2 + WIDTH]
        found = self.out(torch.cat([found, *map(F.silu, others)], 2)).transpose(1, 2).unflatten(2, size)
        return (found, made) if self.returned else found


X = noise(1, WIDTH, SIZE, SIZE)


def products(module):
    program = cut(fuse(lower(capture(module.eval(), (X,), {}))))
    return [op.out.channels for op in program.ops if isinstance(op, Gemm)][:-1]


@pytest.mark.parametrize("bias", [True, False])
def test_keys_values_and_the_rest_are_products_of_their_own(bias):
    assert products(Fused(bias=bias)) == [WIDTH, WIDTH, WIDTH, HIDDEN]


@pytest.mark.parametrize("options", [{"straddling": True}, {"returned": True}])
def test_what_is_read_otherwise_stays_whole(options):
    assert products(Fused(**options)) == [3 * WIDTH + HIDDEN]


@pytest.mark.parametrize("arithmetic", ["float", "int8"])
def test_results_are_those_of_the_whole_product(arithmetic, monkeypatch):
    module, mask = fill(Fused()).eval(), spot(SIZE, SIZE)
    edited = torch.where(mask, noise(1, WIDTH, SIZE, SIZE, seed=1), X)
    found = {}
    for way in ("cut", "whole"):
        if way == "whole":
            monkeypatch.setattr("retouch.incremental.cut", lambda program: program)
            monkeypatch.setattr("retouch.incremental.kept", lambda *given: given[-1]())
        net = retouch.compile(module, (X,), policy=EXACT, backend="cpu", arithmetic=arithmetic)
        y, recording = net.record(X)
        found[way] = y, net.update(recording, retouch.Region.from_mask(mask), edited)
        kept = {v.channels for v in net.plan.kept}
        assert (3 * WIDTH + HIDDEN in kept) == (way == "whole")
    for a, b in zip(*found.values(), strict=True):
        assert torch.equal(a, b)
    if arithmetic == "float":
        assert error(found["cut"][1], module(edited)) < 2e-6
