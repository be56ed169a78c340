"""Tensors between the host and the networks' device, and the device that "auto" takes."""

import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from retouch.editing.calls import run_whole
from retouch.kernels.devices import HOST, device_of, lacks_memory, moved, selected, usable

META = torch.device("meta")


@pytest.fixture
def no_accelerator():
    """Here "auto" is what it is on the machine."""


@pytest.fixture
def cuda(monkeypatch):
    """A function that lets PyTorch see an accelerator, of which `found` is the device, or the error."""

    def seen(found):
        def ones(*_, **__):
            if isinstance(found, Exception):
                raise found
            return SimpleNamespace(device=found)

        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
        monkeypatch.setattr(torch, "ones", ones)

    return seen


def test_moved_reaches_every_tensor_and_nothing_else():
    tree = (torch.zeros(2), {"a": [torch.ones(1), 3, None]}, "x")
    first, rest, text = moved(tree, META)
    assert first.device == rest["a"][0].device == META
    assert rest["a"][1:] == [3, None]
    assert text == "x"
    assert moved(tree, HOST)[0] is tree[0]


def test_device_of_a_module():
    assert device_of(nn.Linear(1, 1, device="meta")) == META
    assert device_of(nn.Identity()) == HOST


def test_a_network_is_given_tensors_on_its_device():
    seen = []

    class Net:
        backend = SimpleNamespace(device=META)

        def __call__(self, x, *, scale):
            seen.extend([x.device, scale.device])
            return torch.zeros(1)

    assert run_whole(Net(), torch.zeros(1), scale=torch.ones(1)).device == HOST
    assert seen == [META, META]


def test_a_device_that_is_there_gets_its_number():
    assert usable("cpu") == usable(HOST) == HOST


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (AssertionError("Torch not compiled with CUDA enabled"), "Torch not compiled with CUDA enabled.*such as cpu"),
        (
            RuntimeError("CUDA error: invalid device ordinal\nMore."),
            r"\(CUDA error: invalid device ordinal\); name one",
        ),
        (
            RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nSee the web."),
            r"'cuda:1' \(.* too old \(found version 11040\).\); update its driver, or use the CPU",
        ),
        (RuntimeError("Found no NVIDIA driver on your system."), "Found no NVIDIA driver.*update its driver"),
        (ModuleNotFoundError("No module named 'torch.cuda'"), "No module named 'torch.cuda'.*such as cpu"),
    ],
)
def test_why_a_device_cannot_be_used(monkeypatch, error, message):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torch, "ones", fail)
    with pytest.raises(ValueError, match=f"cannot compute on the device.*{message}"):
        usable("cuda:1")


def test_nothing_is_computed_on_the_meta_device():
    with pytest.raises(ValueError, match="nothing can be computed on the meta device"):
        usable("meta")


def test_auto_is_the_accelerator_that_pytorch_sees(cuda):
    cuda(torch.device("cuda:1"))
    assert selected() == selected("auto", "triton") == selected("auto", "reference") == torch.device("cuda:1")
    assert selected("auto", "cpu") == HOST


def test_auto_without_an_accelerator_is_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: None)
    assert selected() == selected("auto", "triton") == HOST


@pytest.mark.parametrize(
    "reason",
    [
        "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver.",
        "No CUDA GPUs are available",
        "No HIP GPUs are available",
        "No XPU devices are available.",
        "CUDA error: no CUDA-capable device is detected",
    ],
)
def test_a_machine_without_the_accelerator_that_pytorch_was_built_for_is_no_surprise(cuda, reason):
    cuda(RuntimeError(reason))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert selected() == HOST


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        ("The NVIDIA driver on your system is too old (found version 11040).", "update its driver, or use the CPU"),
        ("CUDA error: no kernel image is available for execution on the device", "name one that this machine has"),
    ],
)
def test_auto_warns_of_an_accelerator_that_cannot_be_used(cuda, reason, remedy):
    cuda(RuntimeError(reason))
    with pytest.warns(UserWarning, match="takes the CPU$") as caught:
        assert selected() == HOST
    (warning,) = (str(each.message) for each in caught)
    assert reason in warning
    assert remedy in warning


def test_a_device_that_is_named_must_be_usable(cuda):
    cuda(RuntimeError("No CUDA GPUs are available"))
    with pytest.raises(ValueError, match=r"device 'cuda' \(No CUDA GPUs are available\)"):
        selected("cuda")
    cuda(torch.device("cuda:0"))
    assert selected("cuda", "triton") == selected(torch.device("cuda")) == torch.device("cuda:0")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("Tried to allocate 20.00 MiB."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
    ],
)
def test_what_is_a_want_of_memory(error, expected):
    assert lacks_memory(error) == expected
