"""Attention: every query independent of the others, scores far apart, and what is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels import cases
from kernels.cases import Random, assert_close, native, on_isa
from retouch.kernels import cpu

# bfloat16 inputs: the weights of the values are rounded to bfloat16 once.
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 4e-3}


def query(random, counts, keys, heads, dk, dv, dtype, out_dtype):
    """Arguments of attention over len(counts) samples."""
    m, samples = sum(counts), len(counts)
    q, index = random.rows(m + 3, heads * dk, dtype), random.index(0, m + 3, m)
    k, v = random.rows(samples * keys, heads * dk, dtype), random.rows(samples * keys, heads * dv, dtype)
    bounds = torch.tensor([0, *counts]).cumsum(0).int()
    return random.rows(m, heads * dv, out_dtype), None, q, index, [k], [v], heads, dk**-0.5, bounds


def test_a_sample_without_queries():
    args = list(query(Random(4), [9, 0, 20], 50, 2, 8, 8, torch.float32, torch.float32))
    got = native("attention", *args)
    args[4:6] = ([torch.cat([x[:50], x[100:]])] for [x] in args[4:6])
    args[8] = torch.tensor([0, 9, 29], dtype=torch.int32)
    assert torch.equal(got, native("attention", *args))


@pytest.mark.parametrize("dtype", list(BOUNDS))
@pytest.mark.parametrize("isa", cases.ISAS)
@pytest.mark.parametrize("scale", [30.0, -2.0, 0.0])
def test_scales(isa, dtype, scale):
    """Scores far apart, which underflow in the softmax; a negative scale; no scale at all."""
    args = list(query(Random(2), [40], 300, 2, 24, 16, dtype, torch.float32))
    args[7] = scale
    q, k, v = (x.double() for x in (args[2], *args[4], *args[5]))
    q = q[args[3].long()]
    wanted = torch.cat([
        torch.softmax(q[:, i * 24 : i * 24 + 24] @ k[:, i * 24 : i * 24 + 24].T * scale, -1)
        @ v[:, i * 16 : i * 16 + 16] for i in range(2)
    ], 1)  # fmt: skip
    with on_isa(isa):
        assert_close(native("attention", *args), wanted, 10 * BOUNDS[dtype] if dtype == torch.float32 else 4e-3)


@given(isa=cases.isas, seed=cases.seeds, dtype=cases.dtypes, m=st.integers(2, 200))
def test_queries_are_independent(isa, seed, dtype, m):
    random = Random(seed)
    out, _, q, index, k, v, heads, scale, bounds = query(random, [m], 150, 2, 24, 40, dtype, torch.float32)
    subset = random.distinct(m // 2, m).long()
    with on_isa(isa, 1):
        whole = native("attention", out, None, q, index, k, v, heads, scale, bounds)
    with on_isa(isa, 3):
        few = torch.tensor([0, len(subset)], dtype=torch.int32)
        part = native("attention", out[subset], None, q, index[subset].contiguous(), k, v, heads, scale, few)
    assert torch.equal(part, whole[subset])


def test_bad_arguments():
    random = Random(3)
    args = list(map(cases.handle, query(random, [5, 6], 7, 2, 8, 8, torch.float32, torch.float32)))

    def call(**changes):
        names = ["out", "out_index", "q", "q_index", "k", "v", "heads", "scale", "bounds"]
        cpu.attention(*[changes.get(n, a) for n, a in zip(names, args, strict=True)])

    with pytest.raises(ValueError, match="do not divide into 3 heads"):
        call(heads=3)
    with pytest.raises(ValueError, match="bounds must rise from 0 to the number of queries 11"):
        call(bounds=cpu.Index(torch.tensor([0, 5, 10], dtype=torch.int32)))
    with pytest.raises(ValueError, match="14 keys do not divide into 3 samples"):
        call(bounds=cpu.Index(torch.tensor([0, 5, 10, 11], dtype=torch.int32)))
    with pytest.raises(TypeError, match="one dtype"):
        call(k=[cpu.Rows(torch.randn(14, 16).bfloat16())])
    with pytest.raises(ValueError, match="channels of k is 8, expected 16"):
        call(k=[cpu.Rows(torch.randn(14, 8))])
    with pytest.raises(ValueError, match="runs of v is 1, expected 2"):
        call(k=args[4] * 2)
    with pytest.raises(ValueError, match="no keys"):
        call(k=[], v=[])
