"""What pixel shuffle and unshuffle refuse."""

import pytest
import torch

from retouch.kernels import cpu


def test_bad_arguments():
    a, index = cpu.Rows(torch.randn(6, 8)), cpu.Index(torch.zeros(5, dtype=torch.int32))
    with pytest.raises(ValueError, match="channel 8 is outside a row of 8"):
        cpu.shuffle(cpu.Rows(torch.empty(5, 3)), None, a, index, index, 2, 4)
    with pytest.raises(ValueError, match="channel 8 is outside a row of 8"):
        cpu.unshuffle(cpu.Rows(torch.empty(5, 8)), None, cpu.Rows(torch.randn(6, 3)), index, 1, 4)
    with pytest.raises(ValueError, match="length of phase is 4"):
        cpu.shuffle(cpu.Rows(torch.empty(5, 2)), None, a, index, cpu.Index(torch.zeros(4, dtype=torch.int32)), 2, 1)
