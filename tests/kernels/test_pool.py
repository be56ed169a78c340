"""Weighted and maximum pooling: NaN, and what is refused."""

import pytest
import torch

from kernels import cases
from kernels.cases import native, on_isa
from retouch.kernels import cpu


@pytest.mark.parametrize("isa", cases.ISAS)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_nan_propagates_through_the_maximum(isa, place):
    a = torch.randn(3, 20)
    a[place, 5] = float("nan")
    index = torch.tensor([[0, 1, 2]], dtype=torch.int32)
    with on_isa(isa):
        got = native("pool", torch.empty(1, 20), None, a, index, None)
    assert got.isnan().nonzero().tolist() == [[0, 5]]


def test_bad_arguments():
    out, a = cpu.Rows(torch.empty(5, 8)), cpu.Rows(torch.randn(6, 8))
    index = cpu.Index(torch.zeros(5, 4, dtype=torch.int32))
    with pytest.raises(ValueError, match="taps of weights is 3, expected 4"):
        cpu.pool(out, None, a, index, cpu.Rows(torch.randn(5, 3)))
    with pytest.raises(ValueError, match="channels of a is 7"):
        cpu.pool(out, None, cpu.Rows(torch.randn(6, 7)), index, None)
