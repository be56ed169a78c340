"""Channel sums, folded norms and probes: what they mean, and what is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels import cases
from kernels.cases import Random, native
from retouch.kernels import cpu


def test_adding_and_subtracting_the_same_rows():
    x, bounds = torch.randn(700, 20), torch.tensor([0, 700], dtype=torch.int32)
    sums = native("channel_sums", torch.zeros(1, 40, dtype=torch.float64), x, None, bounds, 1)
    assert torch.equal(native("channel_sums", sums, x, None, bounds, -1), torch.zeros_like(sums))


@given(seed=cases.seeds, channels=st.integers(1, 40), counts=st.lists(st.integers(0, 20), min_size=1, max_size=3),
       dtype=cases.dtypes)  # fmt: skip
def test_probes_tell_scale_and_shift(seed, channels, counts, dtype):
    random = Random(seed)
    bounds = torch.tensor([0, *torch.tensor(counts).cumsum(0)], dtype=torch.int32)
    total = int(bounds[-1])
    before = random.rows(total + 5, channels).to(dtype)
    after = (before.float() * 1.5 - 0.25).to(dtype)
    index = torch.arange(total, dtype=torch.int32)
    fit = torch.empty(len(counts), 2 * channels)
    arguments = (before, index + 5, after, index + 5, bounds)
    found = native("fit_probes", fit, *arguments)
    for sample, count in enumerate(counts):
        scale, shift = found[sample].chunk(2)
        if count == 0:
            assert (scale == 1).all()
            assert (shift == 0).all()
        elif count > 2 and dtype == torch.float32:
            assert torch.allclose(scale, torch.full_like(scale, 1.5), atol=1e-3)
            assert torch.allclose(shift, torch.full_like(shift, -0.25), atol=1e-3)


@given(seed=cases.seeds, samples=st.integers(1, 3), channels=st.integers(1, 20))
def test_moved_sums_are_the_sums_of_moved_rows(seed, samples, channels):
    random = Random(seed)
    count, left_out = 60, 10
    x = random.rows(samples * (count - left_out), channels).double().reshape(samples, -1, channels)
    scale, shift = random.rows(samples, channels), random.rows(samples, channels)
    sums, moved = (torch.cat([m.sum(1), m.square().sum(1)], 1)
                   for m in (x, x * scale[:, None].double() + shift[:, None].double()))  # fmt: skip
    bounds = torch.arange(samples + 1, dtype=torch.int32) * left_out
    out = torch.empty(samples, 2 * channels, dtype=torch.float64)
    assert torch.allclose(sums + native("move_sums", out, sums, scale, shift, count, bounds), moved)


def test_a_constant_map_keeps_a_finite_scale():
    """The variance comes out slightly negative in rounding: it is clamped."""
    x = torch.full((100, 4), 1234.567)
    sums = native("channel_sums", torch.zeros(1, 8, dtype=torch.float64), x, None,
                  torch.tensor([0, 100], dtype=torch.int32), 1)  # fmt: skip
    out = native("fold_norm", torch.empty(1, 8), [sums], [], 4, 100, 1e-5, None, None)
    assert torch.isfinite(out).all()


def test_bad_arguments():
    x, sums = cpu.Rows(torch.randn(6, 4)), cpu.Rows(torch.zeros(1, 8, dtype=torch.float64))
    bounds = cpu.Index(torch.tensor([0, 6], dtype=torch.int32))
    with pytest.raises(TypeError, match="sums: dtype float32"):
        cpu.channel_sums(cpu.Rows(torch.zeros(1, 8)), x, None, bounds, 1)
    with pytest.raises(ValueError, match="rows of sums is 1, expected 2"):
        cpu.channel_sums(sums, x, None, cpu.Index(torch.tensor([0, 3, 6], dtype=torch.int32)), 1)
    with pytest.raises(ValueError, match="7 rows wanted of 6"):
        cpu.channel_sums(sums, x, None, cpu.Index(torch.tensor([0, 7], dtype=torch.int32)), 1)
    with pytest.raises(ValueError, match="do not divide into 3 groups"):
        cpu.fold_norm(cpu.Rows(torch.empty(1, 8)), [sums], [], 3, 6, 1e-5)
    with pytest.raises(ValueError, match="channels of gamma is 3, expected 4"):
        cpu.fold_norm(cpu.Rows(torch.empty(1, 8)), [sums], [], 2, 6, 1e-5, cpu.Rows(torch.ones(1, 3)))
