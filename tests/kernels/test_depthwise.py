"""Depthwise convolution: every row independent of the others, and what it refuses."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels import cases
from kernels.cases import Random, native, on_isa
from retouch.kernels import cpu


@given(isa=cases.isas, seed=cases.seeds, dtype=cases.dtypes, m=st.integers(1, 60), taps=st.sampled_from([1, 9, 25]),
       width=cases.channels)  # fmt: skip
def test_rows_are_independent(isa, seed, dtype, m, taps, width):
    random = Random(seed)
    a, index, weight = random.rows(m + 2, width, dtype), random.index(-1, m + 2, m, taps), random.rows(taps, width)
    out = random.rows(m, width)
    with on_isa(isa, 2):
        whole = native("depthwise", out, None, a, index, weight)
    with on_isa(isa, 1):
        last = native("depthwise", out[-1:], None, a, index[-1:].contiguous(), weight)
    assert torch.equal(last, whole[-1:])


def test_bad_arguments():
    out, a = cpu.Rows(torch.empty(5, 8)), cpu.Rows(torch.randn(6, 8))
    index = cpu.Index(torch.zeros(5, 9, dtype=torch.int32))
    with pytest.raises(ValueError, match="channels of weight is 7"):
        cpu.depthwise(out, None, a, index, cpu.Rows(torch.randn(9, 7)))
    with pytest.raises(ValueError, match=r"expected \[5, 4\]"):
        cpu.depthwise(out, None, a, index, cpu.Rows(torch.randn(4, 8)))
    with pytest.raises(TypeError, match="weight: dtype bfloat16"):
        cpu.depthwise(out, None, a, index, cpu.Rows(torch.randn(9, 8).bfloat16()))
