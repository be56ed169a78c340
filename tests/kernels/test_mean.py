"""The mean of a map from its channel sums."""

import pytest
import torch

from retouch.kernels import cpu
from retouch.kernels.registry import backend
from retouch.ops import mean, pivoted
from retouch.ops import sums as double


def test_of_a_map():
    x, bounds = torch.randn(30, 5) + 3, torch.tensor([0, 15, 30], dtype=torch.int32)
    expected = x.view(2, 15, 5).mean(1)
    for kernels, width, dtype in ((double, 10, torch.float64), (pivoted, 20, torch.float32)):
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
