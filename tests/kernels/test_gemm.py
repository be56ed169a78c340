"""Indirect matrix product against its reference; every row independent of the others."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels import cases
from kernels.cases import Random, check, native, on_isa
from retouch.ir.expr import Instr
from retouch.kernels import cpu
from retouch.ops.gemm import Packed

ADD_BIAS = (Instr("acc"), Instr("vector"), Instr("add", 0, 1))


def product(random, m, taps, per_group, groups, outputs, dtype, out_dtype):
    """Arguments of one random product with a bias."""
    total = m + 5
    a = random.rows(total, per_group * groups, dtype)
    index = random.index(-1, total, m, taps)
    weight = (torch.randn(outputs, taps, per_group, generator=random.generator) / per_group**0.5).to(dtype)
    out, bias = random.rows(m, outputs, out_dtype), random.rows(1, outputs)
    return out, None, a, index, Packed(weight, groups), ADD_BIAS, [], [bias], None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("m", "taps", "width", "outputs"), [
    (1, 9, 1283, 40), (5, 1, 3000, 130), (16, 9, 320, 336), (400, 9, 130, 144), (800, 1, 64, 3), (30, 9, 640, 64),
])  # fmt: skip
def test_blocked_sums(dtype, m, taps, width, outputs):
    """Sizes that are cut into blocks of rows and of the summation, on every instruction set."""
    args = product(Random(m), m, taps, width, 1, outputs, dtype, torch.float32)
    for isa in cases.ISAS:
        with on_isa(isa):
            check("gemm", *args)


@given(isa=cases.isas, seed=cases.seeds, dtype=cases.dtypes, m=st.sampled_from([7, 40, 200, 700]),
       taps=st.sampled_from([1, 9]), width=st.sampled_from([3, 64, 129, 460]),
       outputs=st.sampled_from([3, 64, 100]))  # fmt: skip
def test_rows_are_independent(isa, seed, dtype, m, taps, width, outputs):
    """A subset of the rows gives bit for bit the same values, whatever the number of threads."""
    random = Random(seed)
    out, _, a, index, packed, *_ = product(random, m, taps, width, 1, outputs, dtype, torch.float32)
    with on_isa(isa, 1):
        whole = native("gemm", out, None, a, index, packed)
    for count in (1, m // 3, m - 1):
        subset = random.distinct(max(count, 1), m).long()
        for threads in (1, 2, 5):
            with on_isa(isa, threads):
                part = native("gemm", out[subset], None, a, index[subset].contiguous(), packed)
            assert torch.equal(part, whole[subset])


def test_writes_only_the_indexed_rows():
    random = Random(1)
    out, _, a, index, packed, *_ = product(random, 12, 9, 20, 1, 70, torch.float32, torch.float32)
    kept = torch.randn(30, 70)
    where = random.distinct(12, 30)
    result = native("gemm", kept, where, a, index, packed)
    assert torch.equal(result[where.long()], native("gemm", out, None, a, index, packed))
    others = [i for i in range(30) if i not in where.tolist()]
    assert torch.equal(result[others], kept[others])


def test_identity_index_reads_row_m():
    random = Random(2)
    a, weight = random.rows(9, 33), torch.randn(17, 1, 33)
    check("gemm", random.rows(9, 17), None, a, None, Packed(weight, 1), None, [], [], None)


def test_nothing_to_do():
    out, a = torch.empty(0, 4), torch.randn(3, 8)
    cpu.gemm(cpu.Rows(out), None, cpu.Rows(a), None, cpu.pack(torch.randn(4, 1, 8), 1))


def test_bad_arguments():
    a, out, packed = cpu.Rows(torch.randn(6, 8)), cpu.Rows(torch.empty(5, 4)), cpu.pack(torch.randn(4, 1, 8), 1)
    with pytest.raises(ValueError, match="channels of out is 3, expected 4"):
        cpu.gemm(cpu.Rows(torch.empty(5, 3)), None, a, None, packed)
    with pytest.raises(ValueError, match="channels of a is 7, expected 8"):
        cpu.gemm(out, None, cpu.Rows(torch.randn(6, 7)), None, packed)
    with pytest.raises(TypeError, match="a is bfloat16, the packed weights are float32"):
        cpu.gemm(out, None, cpu.Rows(torch.randn(6, 8).bfloat16()), None, packed)
    with pytest.raises(ValueError, match="entry 6 of the index is not below 6"):
        cpu.gemm(out, None, a, cpu.Index(torch.tensor([0, 1, 2, 3, 6], dtype=torch.int32)), packed)
    with pytest.raises(ValueError, match=r"index of shape \[4, 1\], expected \[5, 1\]"):
        cpu.gemm(out, None, a, cpu.Index(torch.zeros(4, dtype=torch.int32)), packed)
    with pytest.raises(ValueError, match="an index is needed for 9 taps"):
        cpu.gemm(out, None, a, None, cpu.pack(torch.randn(4, 9, 8), 1))
    where = cpu.Index(torch.tensor([0, 5], dtype=torch.int32))
    with pytest.raises(ValueError, match=r"not all in 0 \.\. 4"):
        cpu.gemm(out, where, a, cpu.Index(torch.zeros(2, dtype=torch.int32)), packed)
    with pytest.raises(ValueError, match="layer_norm"):
        cpu.gemm(out, None, a, None, packed, cpu.Program([("acc", 0, 0, 0), ("layer_norm", 0, 0, 1e-5)]))
    with pytest.raises(ValueError, match="1 row operands"):
        cpu.gemm(out, None, a, None, packed, cpu.Program([("rows", 0, 0, 0)]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pack_reads_any_strides(dtype):
    """A convolution's weight [N, C, kh, kw] and a transposed matrix are packed where they lie."""
    random = Random(6)
    conv = torch.randn(70, 19, 3, 3, generator=random.generator).to(dtype).flatten(2).transpose(1, 2)
    matrix = torch.randn(19, 70, generator=random.generator).to(dtype).t()[:, None, :]
    for weight in (conv, matrix):
        a, index = random.rows(8, 19, dtype), random.index(-1, 8, 5, weight.shape[1])
        args = None, a, index
        got = native("gemm", torch.empty(5, 70), *args, Packed(weight, 1))
        assert torch.equal(got, native("gemm", torch.empty(5, 70), *args, Packed(weight.contiguous(), 1)))


@pytest.mark.parametrize("weight", [torch.randn(4, 8), torch.randn(0, 1, 8)])
def test_pack_refuses_shapes(weight):
    with pytest.raises(ValueError, match="pack"):
        cpu.pack(weight, 1)


def test_pack_refuses_groups_and_dtypes():
    with pytest.raises(ValueError, match="do not divide into 3 groups"):
        cpu.pack(torch.randn(4, 1, 8), 3)
    with pytest.raises(TypeError, match="float32 or bfloat16"):
        cpu.pack(torch.zeros(4, 1, 8, dtype=torch.int32), 1)


def test_weights_of_another_instruction_set():
    if len(cases.ISAS) == 1:
        pytest.skip("one instruction set only")
    with on_isa(cases.ISAS[-1]):
        packed = cpu.pack(torch.randn(4, 1, 8), 1)
    with on_isa(cases.ISAS[0]), pytest.raises(ValueError, match="pack them again"):
        cpu.gemm(cpu.Rows(torch.empty(5, 4)), None, cpu.Rows(torch.randn(6, 8)), None, packed)
