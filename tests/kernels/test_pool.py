"""Weighted and maximum pooling against their reference."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels import cases
from kernels.cases import Random, check, native, on_isa
from retouch.kernels import cpu


@given(
    isa=cases.isas, seed=cases.seeds, dtype=cases.dtypes, out_dtype=cases.dtypes, threads=cases.threads,
    m=st.integers(1, 50), taps=st.integers(1, 9), width=cases.channels, maximum=st.booleans(),
)  # fmt: skip
def test_agrees_with_reference(isa, seed, dtype, out_dtype, threads, m, taps, width, maximum):
    random = Random(seed)
    a, index = random.rows(m + 2, width, dtype), random.index(-1, m + 2, m, taps)
    index[:, 0].clamp_(min=0)
    weights = None if maximum else random.rows(m, taps)
    with on_isa(isa, threads):
        check("pool", random.rows(m, width, out_dtype), None, a, index, weights)


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
