"""`retouch kernels` lists what there is, who has it and why others have not."""

import torch

from commands import run
from retouch.kernels import registry
from retouch.kernels.cpu import backend as cpu
from retouch.ops.specs import SPECS

HOST = torch.device("cpu")


def test_every_kernel_with_its_formula_and_backends():
    result = run("kernels", "--device", "cpu")
    assert result.exit_code == 0
    for spec in SPECS.values():
        backends = "cpu, reference" if spec.optional else "cpu, triton, reference"
        assert f"{spec.name}: {backends}\n    {spec.formula}\n" in result.output
    assert result.output.count("lacks") == 1


def test_what_a_backend_lacks_is_named_with_the_reason(monkeypatch):
    partial = cpu.Cpu({name: kernel for name, kernel in cpu.KERNELS.items() if name not in ("pool", "gemm")})
    monkeypatch.setattr(registry, "_made", {("cpu", HOST): partial})
    monkeypatch.delenv("TRITON_INTERPRET")
    output = run("kernels", "--device", "cpu").output
    assert "pool: reference\n" in output
    assert "attention: cpu, reference\n" in output
    assert "cpu lacks gemm, pool: the cpu backend has no kernel of that name\n" in output
    assert "triton lacks all: runs on cuda and xpu\n" in output


def test_a_backend_that_cannot_be_loaded_says_why(monkeypatch):
    def missing(device):
        raise ImportError("No module named triton")

    monkeypatch.setitem(registry._BACKENDS, "triton", registry.Entry(missing, ("cpu",), "pip install triton"))
    monkeypatch.setattr(registry, "_made", {})
    output = run("kernels", "--device", "cpu").output
    assert (
        "triton lacks all: the triton backend cannot be loaded (No module named triton); pip install triton" in output
    )


def test_a_device_that_is_not_there_is_refused():
    result = run("kernels", "--device", "nowhere")
    assert result.exit_code == 2
    assert "nowhere" in result.stderr
