"""Pixel shuffle and unshuffle against their references."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels import cases
from kernels.cases import Random, check
from retouch.kernels import cpu


@given(seed=cases.seeds, dtype=cases.dtypes, m=st.integers(1, 300), phases=st.sampled_from([1, 4, 6]),
       width=st.integers(1, 70), inner=st.booleans())  # fmt: skip
def test_shuffle(seed, dtype, m, phases, width, inner):
    random = Random(seed)
    a, index, phase = random.rows(9, phases * width, dtype), random.index(-1, 9, m, 1), random.index(0, phases, m)
    strides = (width, 1) if inner else (1, phases)
    check("shuffle", random.rows(m, width, dtype), None, a, index, phase, *strides, bound=0)


@given(seed=cases.seeds, dtype=cases.dtypes, m=st.integers(1, 300), taps=st.sampled_from([1, 4, 6]),
       width=st.integers(1, 70), inner=st.booleans())  # fmt: skip
def test_unshuffle(seed, dtype, m, taps, width, inner):
    random = Random(seed)
    a, index = random.rows(9, width, dtype), random.index(-1, 9, m, taps)
    strides = (width, 1) if inner else (1, taps)
    check("unshuffle", random.rows(m, taps * width, dtype), None, a, index, *strides, bound=0)


def test_bad_arguments():
    a, index = cpu.Rows(torch.randn(6, 8)), cpu.Index(torch.zeros(5, dtype=torch.int32))
    with pytest.raises(ValueError, match="channel 8 is outside a row of 8"):
        cpu.shuffle(cpu.Rows(torch.empty(5, 3)), None, a, index, index, 2, 4)
    with pytest.raises(ValueError, match="channel 8 is outside a row of 8"):
        cpu.unshuffle(cpu.Rows(torch.empty(5, 8)), None, cpu.Rows(torch.randn(6, 3)), index, 1, 4)
    with pytest.raises(ValueError, match="length of phase is 4"):
        cpu.shuffle(cpu.Rows(torch.empty(5, 2)), None, a, index, cpu.Index(torch.zeros(4, dtype=torch.int32)), 2, 1)
