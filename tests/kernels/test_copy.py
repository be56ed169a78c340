"""Row copies and exchanges."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels import cases
from kernels.cases import Random, check
from retouch.kernels import cpu


@given(seed=cases.seeds, dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
       m=st.integers(0, 40), width=st.one_of(cases.channels, st.just(700)))  # fmt: skip
def test_copy(seed, dtype, m, width):
    random = Random(seed)
    dst, src = random.rows(50, width, dtype), random.rows(45, width, dtype)
    where, source = random.distinct(m, 50), random.index(-1, 45, m)
    check("copy_rows", dst, where, src, source, bound=0)
    check("copy_rows", dst, None, src, source, bound=0)
    check("copy_rows", dst, None, src, None, bound=0)
    check("copy_rows", dst, where, src[:m], None, bound=0)


@given(seed=cases.seeds, dtype=cases.dtypes, m=st.integers(0, 40), width=st.one_of(cases.channels, st.just(700)))
def test_swapping_twice_restores(seed, dtype, m, width):
    random = Random(seed)
    kept, saved, where = random.rows(50, width, dtype), random.rows(m, width, dtype), random.distinct(m, 50)
    first, second = kept.clone(), saved.clone()
    args = cpu.Rows(kept), cpu.Index(where), cpu.Rows(saved)
    cpu.swap_rows(*args)
    assert torch.equal(kept[where.long()], second)
    assert torch.equal(saved, first[where.long()])
    cpu.swap_rows(*args)
    assert torch.equal(kept, first)
    assert torch.equal(saved, second)


def test_large_copies_use_all_threads():
    random = Random(1)
    check("copy_rows", random.rows(4000, 64), random.distinct(3000, 4000), random.rows(3000, 64), None, bound=0)


def test_bad_arguments():
    dst, src = cpu.Rows(torch.empty(5, 8)), cpu.Rows(torch.randn(6, 8))
    with pytest.raises(ValueError, match="more rows than dst has"):
        cpu.copy_rows(dst, None, src)
    with pytest.raises(TypeError, match="dtypes differ"):
        cpu.copy_rows(dst, None, cpu.Rows(torch.randn(5, 8).bfloat16()))
    with pytest.raises(ValueError, match="saved has fewer rows"):
        cpu.swap_rows(dst, None, cpu.Rows(torch.randn(4, 8)))
    with pytest.raises(ValueError, match=r"not all in 0 \.\. 4"):
        cpu.copy_rows(dst, cpu.Index(torch.tensor([-1], dtype=torch.int32)), src)
