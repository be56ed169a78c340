"""Arguments are checked against the example's: numbers that are none are found in every type."""

import pytest
import torch
from torch import nn

from retouch.frontend.signature import InputError, Signature


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_found(dtype, bad):
    signature = Signature(nn.Identity(), (torch.zeros(2, 3, dtype=dtype),), {})
    largest = torch.finfo(dtype).max
    fine = torch.full((2, 3), largest, dtype=dtype)
    assert signature.flatten((fine,), {})[0] is fine
    fine[1, 2] = bad
    with pytest.raises(InputError, match="NaN or infinite"):
        signature.flatten((fine,), {})


def test_arguments_that_are_not_in_one_piece_are_looked_at():
    signature = Signature(nn.Identity(), (torch.zeros(3, 2, dtype=torch.bfloat16),), {})
    given = torch.ones(2, 3, dtype=torch.bfloat16)
    signature.flatten((given.T,), {})
    given[0, 2] = float("nan")
    with pytest.raises(InputError, match="NaN or infinite"):
        signature.flatten((given.T,), {})
