"""The product in int8: bit for bit that of the reference, and of each row alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels import cases
from kernels.cases import Random, expected, native, on_isa
from retouch.kernels import cpu
from retouch.ops.copy import spread
from retouch.ops.int8_gemm import Levels


def product(random, m, taps, per_group, groups, outputs):
    """Arguments of a random product without an epilogue."""
    a = spread(random.rows(m + 5, per_group * groups) * 3)
    weight = torch.randn(outputs, taps, per_group, generator=random.generator)
    return torch.empty(m, outputs), None, a, random.index(-1, m + 5, m, taps), Levels.of(weight, groups)


@given(isa=cases.isas, threads=cases.threads, seed=cases.seeds, m=st.sampled_from([1, 13, 90, 500]),
       taps=st.sampled_from([1, 9]), groups=st.sampled_from([1, 3]), width=st.sampled_from([1, 3, 64, 129, 460, 2000]),
       outputs=st.sampled_from([3, 63, 99]))  # fmt: skip
def test_bit_for_bit(isa, threads, seed, m, taps, groups, width, outputs):
    args = product(Random(seed), m, taps, width, groups, outputs)
    with on_isa(isa, threads):
        got = native("int8_gemm", *args, None, [], [], None)
    assert torch.equal(got, expected("int8_gemm", *args, None, [], [], None))


@given(isa=cases.isas, seed=cases.seeds, m=st.sampled_from([7, 40, 200, 700]), taps=st.sampled_from([1, 9]),
       width=st.sampled_from([3, 64, 129, 460]), outputs=st.sampled_from([3, 64, 100]))  # fmt: skip
def test_rows_are_independent(isa, seed, m, taps, width, outputs):
    random = Random(seed)
    out, _, a, index, packed = product(random, m, taps, width, 1, outputs)
    with on_isa(isa, 1):
        whole = native("int8_gemm", out, None, a, index, packed)
    for count in (1, m // 3, m - 1):
        subset = random.distinct(max(count, 1), m).long()
        for threads in (1, 2, 5):
            with on_isa(isa, threads):
                part = native("int8_gemm", out[subset], None, a, index[subset].contiguous(), packed)
            assert torch.equal(part, whole[subset])


def test_the_largest_sums():
    """4096 channels of the largest levels everywhere: no sum of 32 bits overflows."""
    a = spread(torch.ones(2, 4096))
    for sign in (1, -1):
        weights = Levels.of(torch.full((16, 1, 4096), float(sign)), 1)
        for isa in cases.ISAS:
            with on_isa(isa):
                got = native("int8_gemm", torch.empty(2, 16), None, a, None, weights, None, [], [], None)
            assert torch.allclose(got, torch.full((2, 16), 4096.0 * sign))


def test_levels_of_weights():
    weight = torch.tensor([[[1.0, -2.0, 0.5]], [[0.0, 0.0, 0.0]]])
    found = Levels.of(weight, 1)
    assert found.weight.tolist() == [[[64, -127, 32]], [[0, 0, 0]]]
    assert torch.allclose(found.scales, torch.tensor([[2.0 / 127], [0.0]]))


def test_bad_arguments():
    a, out = cpu.Rows(spread(torch.randn(6, 8))), cpu.Rows(torch.empty(6, 4))
    levels = Levels.of(torch.randn(4, 1, 8), 1)
    packed = cpu.pack_levels(levels.weight, levels.scales, 1)
    with pytest.raises(TypeError, match="gemm does not take weights of int8"):
        cpu.gemm(out, None, a, None, packed)
    with pytest.raises(TypeError, match="int8_gemm does not take weights of float32"):
        cpu.int8_gemm(out, None, cpu.Rows(torch.randn(6, 12)), None, cpu.pack(torch.randn(4, 1, 8), 1))
    with pytest.raises(ValueError, match="channels of a is 8, expected 16"):
        cpu.int8_gemm(out, None, cpu.Rows(torch.randn(6, 8)), None, packed)
    with pytest.raises(TypeError, match="a is float32, the packed weights are int8"):
        cpu.int8_gemm(out, None, cpu.Rows(torch.randn(6, 16)), None, packed)
    with pytest.raises(ValueError, match="one scale for each output and tap"):
        cpu.pack_levels(levels.weight, levels.scales[:3], 1)
    with pytest.raises(TypeError, match="levels are int8, scales float32"):
        cpu.pack_levels(levels.weight.float(), levels.scales, 1)
