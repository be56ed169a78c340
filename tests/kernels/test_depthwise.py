"""Depthwise convolution against its reference."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels import cases
from kernels.cases import EPILOGUES, Random, check, epilogue, native, on_isa
from retouch.kernels import cpu


@given(
    isa=cases.isas, seed=cases.seeds, dtype=cases.dtypes, out_dtype=cases.dtypes, threads=cases.threads,
    m=st.integers(1, 60), taps=st.sampled_from([1, 9, 25]), width=st.one_of(cases.channels, st.just(1100)),
    kind=st.sampled_from(EPILOGUES),
)  # fmt: skip
def test_agrees_with_reference(isa, seed, dtype, out_dtype, threads, m, taps, width, kind):
    random = Random(seed)
    a, index, weight = random.rows(m + 2, width, dtype), random.index(-1, m + 2, m, taps), random.rows(taps, width)
    tail = epilogue(kind, random, m, width, dtype)
    with on_isa(isa, threads):
        whole = check("depthwise", random.rows(m, width, out_dtype), None, a, index, weight, *tail)
    if kind == "none":
        with on_isa(isa, 1):
            last = native("depthwise", whole[-1:], None, a, index[-1:].contiguous(), weight)
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
