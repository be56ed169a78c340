"""Every compiled kernel on the GPU against the reference of its spec."""

import pytest

from kernels.specs import check, runs
from retouch.kernels.triton.backend import KERNELS, Triton

SEEDS = range(4)


@pytest.mark.parametrize(("spec", "case", "dtype"), runs(KERNELS, Triton.dtypes))
def test_agrees_with_the_reference(kernels, spec, case, dtype):
    for seed in SEEDS:
        check(kernels, spec, case, dtype, seed)
