"""The mean of a map from its channel sums."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels import cases
from kernels.cases import Random, check
from retouch.kernels import cpu
from retouch.kernels.registry import backend
from retouch.ops import mean, moments, pivoted


@given(seed=cases.seeds, samples=st.integers(1, 3), channels=cases.channels, shifted=st.booleans())
def test_fold_mean(seed, samples, channels, shifted):
    random = Random(seed)
    sums, shift = (random.rows(samples, 2 * channels, torch.float64) for _ in range(2))
    out = torch.empty(samples, channels)
    wanted = check("fold_mean", out, sums, shift if shifted else None, 37, bound=1e-7)
    found = torch.empty(samples, channels)
    backend("triton").kernel("fold_mean")(found, sums, shift if shifted else None, 37)
    assert torch.equal(found, wanted)


def test_of_a_map():
    x, bounds = torch.randn(30, 5) + 3, torch.tensor([0, 15, 30], dtype=torch.int32)
    expected = x.view(2, 15, 5).mean(1)
    for kernels, width, dtype in ((moments, 10, torch.float64), (pivoted, 20, torch.float32)):
        sums, out = torch.zeros(2, width, dtype=dtype), torch.empty(2, 5)
        kernels.channel_sums(sums, x, None, bounds, 1)
        mean.reference(out, sums, None, 15)
        assert torch.allclose(out, expected, rtol=1e-6)


def test_bad_arguments():
    out, sums = torch.empty(2, 4), torch.zeros(2, 6, dtype=torch.float64)
    with pytest.raises(ValueError, match="channels of sums"):
        cpu.fold_mean(cpu.Rows(out), cpu.Rows(sums), None, 5)
    with pytest.raises(ValueError, match="count must be positive"):
        cpu.fold_mean(cpu.Rows(out), cpu.Rows(torch.zeros(2, 8, dtype=torch.float64)), None, 0)
    with pytest.raises(ValueError, match=r"sums of shape \[2, 6\], expected \[2, 8\]"):
        backend("triton").kernel("fold_mean")(out, sums, None, 5)
