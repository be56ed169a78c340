"""Kernels compiled for GPUs that are not here: what they take, against the committed table."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from retouch.kernels.triton import ahead

TABLE = Path(__file__).with_name("triton_resources.json")
HOW = f"python -m retouch.kernels.triton.ahead --json >tests/kernels/{TABLE.name}"


@pytest.fixture(scope="module")
def compiled():
    """What every kernel takes, by target; compiled in a process without the interpreter."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "retouch.kernels.triton.ahead", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_resources_are_those_of_the_table(compiled):
    """Kernels that are not in it yet are new."""
    table = json.loads(TABLE.read_text())
    known = {target: {k: v for k, v in compiled[target].items() if k in table[target]} for target in table}
    assert known == table, f"if the change is wanted: {HOW}"


SPILLING = re.compile("attention heads of .* float32 ")
"""On sm_80 ptxas gives up a few registers of these, for more programs at once: 16 bytes go to memory."""


@pytest.mark.parametrize("target", list(ahead.TARGETS))
def test_nothing_spills_and_everything_fits(compiled, target):
    for kernel, taken in compiled[target].items():
        assert taken["spilled"] <= (16 if SPILLING.match(kernel) else 0), kernel
        assert taken["shared"] <= 1024 * ahead.SHARED_LIMIT[target], kernel
        assert taken["registers"] <= (512 if target.startswith("gfx") else 255), kernel


@pytest.mark.parametrize("target", list(ahead.TARGETS))
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_matrix_kernels_use_tensor_cores(compiled, target, dtype):
    kernels = {k: v for k, v in compiled[target].items() if f" {dtype} (" in k and ("gemm_" in k or "attention_" in k)}
    assert len(kernels) == 10
    assert all(taken["matrix"] for taken in kernels.values())


@pytest.mark.parametrize("target", [t for t in ahead.TARGETS if t.startswith("sm_")])
def test_single_precision_is_not_rounded_to_tf32(compiled, target):
    kernels = {k: v for k, v in compiled[target].items() if " float32 (" in k and ("gemm_" in k or "attention_" in k)}
    assert len(kernels) == 10
    assert not any(taken["matrix"] for taken in kernels.values())


def test_the_interpreter_compiles_nothing():
    with pytest.raises(RuntimeError, match="unset it to compile"):
        ahead.compile_all("sm_80")
