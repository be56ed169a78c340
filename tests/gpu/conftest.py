"""The GPU that these tests need: `TRITON_INTERPRET=0 python -m pytest tests/gpu` on a machine that has one."""

import pytest
import torch
import triton

from retouch.kernels.triton.backend import Triton


@pytest.fixture(scope="session")
def gpu() -> torch.device:
    if triton.knobs.runtime.interpret or not torch.cuda.is_available():
        pytest.skip("needs a GPU, and TRITON_INTERPRET=0 in the environment")
    torch.set_float32_matmul_precision("highest")
    return torch.device("cuda", 0)


@pytest.fixture(scope="session")
def kernels(gpu: torch.device) -> Triton:
    return Triton(gpu)
