"""The reference backend as on a device: without float64, without waiting for it, with what MPS has kernels for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from functools import cache
from pathlib import Path
from subprocess import CalledProcessError
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torchgen
import yaml
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import retouch
from networks import case, compiled, edits, record, update
from retouch import Policy, Region, incremental, models
from retouch.frontend import signature
from retouch.frontend.signature import Signature
from retouch.incremental import Incremental, InputError
from retouch.kernels import checksum
from retouch.kernels import registry as kernel_table
from retouch.kernels.reference import Reference
from retouch.ops import pivoted
from retouch.ops import sums as double
from retouch.runtime.blocks import StoreError
from retouch.runtime.shared import Shared
from retouch.runtime.state.layered import Snapshot
from retouch.runtime.state.layers import layer_of
from retouch.runtime.store import Store
from retouch.runtime.weights import Weights
from support import EXACT, PROBED, SHARED, error, noise, same, state

CPU = torch.device("cpu")
WAITING = ("_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "unique", "_unique2")
WIDE = (torch.float64, torch.complex128)
BEFORE = (
    (Region, "from_mask"),
    (Signature, "flatten"),
    (Incremental, "_changed"),
    (Weights, "check"),
    (Weights, "refresh"),
    (Shared, "_same"),
)
"""What reads tensors on the host before the calls: the mask, arguments that are compared, weights."""


ANYWHERE = {"MPS", "CompositeImplicitAutograd", "CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional"}
"""What an operator dispatches to that runs on MPS, by a kernel of its own or by others."""
INSTEAD = {"_scaled_dot_product_flash_attention_for_cpu": "_scaled_dot_product_attention_math_for_mps"}
"""What runs on MPS where this is chosen for the CPU."""


@cache
def operators() -> dict[str, dict[str, Any]]:
    """What PyTorch's operators dispatch to, by name and overload."""
    found = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
    entries = yaml.load(found.read_text(), yaml.CSafeLoader)
    return {entry["func"].partition("(")[0]: entry for entry in entries}


@cache
def on_mps(name: str) -> bool:
    """True when PyTorch has a kernel of that operator for MPS; one made of others must have those that write `out`."""
    name = INSTEAD.get(name, name)
    entry = operators()[name]
    if "structured_delegate" in entry:
        return on_mps(entry["structured_delegate"])
    keys = {key for keys in entry.get("dispatch", ()) for key in keys.split(", ")}
    if "MPS" in keys or not keys:
        return True
    writing = [n for n in operators() if n.startswith(f"{name.partition('.')[0]}.") and "out" in n and n != name]
    return not keys.isdisjoint(ANYWHERE) and all(on_mps(n) for n in writing)


class FarAway:
    """What is asked of a tensor on a GPU."""

    device = torch.device("cuda:0")

    def __init__(self, dimensions: int) -> None:
        self.dim = lambda: dimensions


class Guard(TorchDispatchMode):
    """Raises on what a device without float64, or MPS, cannot do, and on what waits for it, unless lifted."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.lifts = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not self.lifts:
            self.calls += 1
            self._check(func, args, [x for x in pytree.tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)])
        return result

    def _check(self, func, args, tensors):
        name = func.overloadpacket.__name__
        assert on_mps(func.name().removeprefix("aten::")), f"{func} has no kernel for MPS"
        assert name not in WAITING, f"{func} waits for the device"
        assert not any(x.dtype in WIDE for x in tensors), f"{func} computes in float64"
        indices = pytree.tree_leaves(args[1:]) if name.startswith(("index", "_index", "_unsafe_index")) else []
        assert not any(isinstance(x, Tensor) and x.dtype == torch.bool for x in indices), f"{func} waits for a mask"

    def lifted(self, function):
        """`function` outside the guard."""

        def run(*args, **kwargs):
            self.lifts += 1
            try:
                return function(*args, **kwargs)
            finally:
                self.lifts -= 1

        return run

    def reading(self, function):
        """`function` of a tensor, an error inside the guard: the dispatcher does not see it."""

        def run(tensor, *args):
            assert self.lifts, f"Tensor.{function.__name__} waits for the device"
            return function(tensor, *args)

        return run


@contextmanager
def guarded() -> Iterator[Guard]:
    """Everything but the checks of arguments and weights, which come before the calls, runs inside a guard."""
    guard = Guard()
    with ExitStack() as patches:
        for owner, name in BEFORE:
            patches.enter_context(patch.object(owner, name, guard.lifted(getattr(owner, name))))
        for name in ("tolist", "numpy", "cpu"):
            patches.enter_context(patch.object(Tensor, name, guard.reading(getattr(Tensor, name))))
        with guard:
            yield guard
    assert guard.calls


@cache
def without_double(name: str, policy: str | Policy) -> Incremental:
    """A network compiled as for a device without float64."""
    kernels = Reference(CPU, double=False)
    with patch("retouch.kernels.backend", lambda *_: kernels):
        return compiled.__wrapped__(name, policy, "reference")


@pytest.mark.parametrize("policy", [SHARED, PROBED, EXACT], ids=lambda p: p.name)
@pytest.mark.parametrize("name", ["taesd", "ddpm-256", "sd15-unet", "dit"])
def test_records_and_updates_without_float64_and_without_waiting(name, policy):
    net, made = without_double(name, policy), case(name)
    with guarded():
        first, recording = record(net, made)
    assert error(first, made.dense()) < 1e-5
    twin = compiled(name, policy, "reference")
    _, other = record(twin, made)
    before = state(recording)
    for mask, edited in edits(made, 2, seed=4):
        expected = update(twin, other, mask, edited)
        with guarded():
            result = update(net, recording, mask, edited)
        assert error(result, expected) < 2e-5
    assert all(t.dtype == torch.float32 for t in recording.states.values())
    recording.undo()
    recording.undo()
    assert same(before, state(recording))


@pytest.mark.parametrize("name", ["ddpm-256"])
def test_snapshots_without_float64_and_without_waiting(name, tmp_path):
    net, made = without_double(name, SHARED), case(name)
    _, recording = record(net, made)
    snapshot = Snapshot.of(record(net, made)[1], Store())
    ((mask, edited),) = edits(made, 1, seed=4)
    expected = update(net, recording, mask, edited)
    restored = snapshot.recording()
    with guarded():
        result = update(net, restored, mask, edited)
    assert torch.equal(result, expected)
    with pytest.raises(StoreError, match="channel sums are"):
        layer_of(compiled(name, SHARED, "reference"), restored.snapshot.layers[0].block)


@pytest.mark.parametrize(
    "refused",
    [
        lambda x: x.double(),
        lambda x: x.sum().item(),
        lambda x: bool(x[0]),
        lambda x: x[x > 0],
        lambda x: x.__setitem__(x > 0, 0),
        lambda x: x.nonzero(),
        lambda x: x.masked_select(x > 0),
        lambda x: torch.equal(x, x),
        lambda x: x.tolist(),
        lambda x: x.mode(),
        lambda x: x.frexp(),
    ],
)
def test_the_guard_sees_what_it_should(refused):
    with pytest.raises(AssertionError), guarded():
        refused(torch.ones(4))


# Where tensors lie


class OneDevice(TorchDispatchMode):
    """Raises when an operation reads a tensor of the CPU, other than to move it."""

    MOVES = ("_to_copy", "copy_", "detach", "lift_fresh")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if func.overloadpacket.__name__ not in self.MOVES:
            assert not [x for x in tensors if x.device == CPU], f"{func} reads a tensor of the CPU"
        return func(*args, **(kwargs or {}))


@pytest.fixture
def without_contents(monkeypatch):
    """No checks of contents: tensors of the meta device have none."""
    monkeypatch.setattr(checksum, "fingerprint", lambda tensors, device: [1] * len(tensors))
    monkeypatch.setattr(checksum, "sampler", lambda tensors, stride, device: lambda: 1)
    monkeypatch.setattr(signature, "_check_leaf", lambda name, leaf, example: None)
    monkeypatch.setattr(incremental, "same_tensor", lambda a, b: False)


@pytest.mark.parametrize(
    ("name", "policy"),
    [("taesd", EXACT), ("srvgg", SHARED), ("ddpm-256", PROBED), ("sd15-unet", PROBED), ("dit", SHARED)],
    ids=lambda x: x if isinstance(x, str) else x.name,
)
def test_everything_lies_on_the_device(without_contents, name, policy):
    """The meta device stands for one that cannot read the CPU's memory."""
    meta, made = torch.device("meta"), case(name)
    args, kwargs = pytree.tree_map_only(Tensor, lambda x: x.to(meta), (made.args, made.kwargs))
    module = deepcopy(made.module).to(meta)
    net = Incremental(module, args, kwargs, Policy.named(policy), Reference(meta, double=False))
    region, other = (Region.from_mask(made.spot(top)) for top in (0.3, 0.6))
    with OneDevice():
        _, recording = net.record(*args, **kwargs)
        result = models.tensor_of(net.update(recording, region, *args, **kwargs))
        recording.undo()
        restored = Snapshot.of(recording, Store(device_budget=1 << 40)).recording()
        net.update(restored, region, *args, **kwargs)
        net.update(restored.snapshot.recording(), other, *args, **kwargs)
    assert result.device == meta
    assert all(t.device == meta for t in restored.states.values())


# Statistics


@pytest.mark.parametrize("mean", [0.0, 10.0, 300.0])
def test_twenty_edits_keep_float32_statistics(mean):
    """Rows that are taken away and put back again and again leave nothing behind in the sums."""
    channels, total, groups = 16, 64 * 64, 4
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(total, channels, generator=generator) + mean
    bounds = torch.tensor([0, total], dtype=torch.int32)
    sums = torch.zeros(1, 4 * channels)
    pivoted.channel_sums(sums, x, None, bounds, 1)
    for _ in range(20):
        rows = torch.randperm(total, generator=generator)[: total // 5].int()
        some = torch.tensor([0, len(rows)], dtype=torch.int32)
        pivoted.channel_sums(sums, x, rows, some, -1)
        x[rows.long()] = torch.randn(len(rows), channels, generator=generator) * 1.1 + mean + 0.1
        pivoted.channel_sums(sums, x, rows, some, 1)
    found, expected = torch.empty(2, 1, 2 * channels)
    fresh = torch.zeros(1, 2 * channels, dtype=torch.float64)
    double.channel_sums(fresh, x, None, bounds, 1)
    pivoted.fold_norm(found, [sums], [], groups, total, 1e-5, None, None)
    double.fold_norm(expected, [fresh], [], groups, total, 1e-5, None, None)
    assert ((found - expected).abs() / expected.abs()).max() < 2e-6


def test_float32_statistics_are_those_in_float64():
    """Of two samples and parts, of which all rows but the active ones move as the probes say."""
    parts = [noise(90, 6, seed=i) * 3 + 20 for i in range(2)]
    bounds, active = torch.tensor([[0, 45, 90], [0, 5, 5]], dtype=torch.int32)
    scale, shift = noise(2, 6, seed=5) * 0.1 + 1, noise(2, 6, seed=6)
    weight, bias = noise(1, 12, seed=7), noise(1, 12, seed=8)

    def folded(kernels: Reference) -> Tensor:
        width = double.sums_width(6, kernels.sums_dtype)
        sums, shifts = torch.zeros(2, len(parts), 2, width, dtype=kernels.sums_dtype)
        for i, x in enumerate(parts):
            kernels.kernel("channel_sums")(sums[i], x, None, bounds, 1)
            kernels.kernel("channel_sums")(sums[i], x, torch.arange(5).int(), active, -1)
            kernels.kernel("move_sums")(shifts[i], sums[i], scale, shift, 45, active)
            kernels.kernel("channel_sums")(sums[i], x, torch.arange(5).int(), active, 1)
        out = torch.empty(2, 24)
        kernels.kernel("fold_norm")(out, list(sums), list(shifts), 3, 45, 1e-5, weight, bias)
        return out

    found, expected = folded(Reference(CPU, double=False)), folded(Reference(CPU))
    assert error(found, expected) < 1e-4


# Checksums


def test_checksums_tell_changes_and_exchanges():
    tensors = [noise(33, 7), noise(5), torch.tensor(3.0), torch.ones(3, 3, dtype=torch.bool), torch.empty(0, 4),
               noise(200, 9).bfloat16()]  # fmt: skip
    whole, part = checksum.fingerprint(tensors, CPU), checksum.sampler(tensors, 4, CPU)()
    assert len(set(whole)) == len(tensors)
    tensors[0][[3, 20]] = tensors[0][[20, 3]]
    changed = checksum.fingerprint(tensors, CPU)
    assert changed[0] != whole[0]
    assert changed[1:] == whole[1:]
    tensors[0][[3, 20]] = tensors[0][[20, 3]]
    assert checksum.sampler(tensors, 4, CPU)() == part
    tensors[5][-1, -1] += 1
    assert checksum.sampler(tensors, 4, CPU)() != part
    assert checksum.fingerprint([], CPU) == []
    assert isinstance(checksum.sampler([], 4, CPU)(), int)


def test_checksums_are_computed_on_the_device():
    tensor = noise(33, 7)
    with guarded():
        checksum._checksum(checksum._words(tensor))
        lines = torch.cat(list(checksum._lines(checksum._in_order(tensor).view(torch.uint8), 4)))
        checksum._checksum(lines.view(torch.int32).reshape(-1))


# Choosing a backend


def failing(error):
    """A backend that cannot be made."""

    def make(*_):
        raise error

    return kernel_table.Entry(make, ("cuda", "xpu"), "pip install triton==3.7.1")


@pytest.fixture
def on_gpus(monkeypatch):
    """Every device is there; returns a function that gives the table another entry for Triton."""
    monkeypatch.setattr(kernel_table, "usable", torch.device)
    monkeypatch.setattr(kernel_table, "_made", {})
    return lambda entry: monkeypatch.setitem(kernel_table._BACKENDS, "triton", entry)


def test_one_backend_for_each_device(on_gpus):
    assert kernel_table.backend("auto", "cpu").name == "cpu"
    assert kernel_table.backend("reference", "cpu") is kernel_table.backend("reference", CPU)
    assert kernel_table.backend("reference").device == CPU
    on_gpus(kernel_table.Entry(lambda device: SimpleNamespace(name="triton", device=device), ("cuda", "xpu")))
    assert [kernel_table.backend("auto", d).name for d in ("cpu", "mps", "cuda:1", "xpu", "privateuseone")] == [
        "cpu", "reference", "triton", "triton", "reference"
    ]  # fmt: skip
    assert kernel_table.described(kernel_table.backend("reference", "cuda:1")) == (
        'reference kernels on cuda:1 ("auto" would take triton)'
    )


def test_backends_on_devices_they_are_not_for(on_gpus, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match=r"triton backend runs on cuda and xpu, and the module is on cpu.*\"cpu\""):
        kernel_table.backend("triton")
    on_gpus(failing(ImportError("No module named 'triton'")))
    with pytest.raises(ValueError, match=r"cpu backend runs on cpu, and the module is on cuda:0.*\"reference\""):
        kernel_table.backend("cpu", "cuda:0")


def test_devices_that_are_not_there():
    with pytest.raises(ValueError, match="nothing can be computed on the meta device"):
        kernel_table.backend("reference", "meta")
    with pytest.raises(ValueError, match="cannot compute on the device 'mps'"):
        kernel_table.backend("auto", "mps")


@pytest.mark.parametrize(
    ("error", "reason", "remedy"),
    [
        (ImportError("No module named 'triton'"), "be loaded.*No module named", "pip install triton==3.7.1"),
        (
            kernel_table.BackendError("Triton finds no driver; update it"),
            "be used: Triton finds no driver",
            "update it",
        ),
    ],
)
def test_auto_takes_what_works_and_says_why(on_gpus, error, reason, remedy):
    on_gpus(failing(error))
    with pytest.raises(type(error), match=f'triton backend cannot {reason}.*{remedy}, or pass backend="reference"'):
        kernel_table.backend("triton", "cuda:0")
    with pytest.warns(UserWarning, match=f'{reason}.*{remedy}.*"auto" takes the reference backend on cuda:0') as seen:
        chosen = kernel_table.backend("auto", "cuda:0")
    assert len(seen) == 1
    assert kernel_table.described(chosen) == (
        'reference kernels on cuda:0 (chosen by "auto" for cuda, as triton cannot be used)'
    )


def test_a_missing_triton_is_told_from_a_missing_driver(on_gpus, monkeypatch):
    monkeypatch.setitem(sys.modules, "retouch.kernels.triton.backend", None)
    with pytest.raises(ImportError, match=r"triton backend cannot be loaded.*pip install triton==3.7.1"):
        kernel_table.backend("triton", "cuda:0")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            RuntimeError("0 active drivers ([])."),
            "finds no driver for cuda:0, or one that is too old .*update the GPU's",
        ),
        (RuntimeError("Failed to retrieve f from libcuda.so.1"), "one that is too old .*libcuda.*update the GPU's"),
        (AssertionError("libcuda.so cannot found!"), "finds no driver for cuda:0.*libcuda.*update the GPU's driver"),
        (RuntimeError("Failed to find C compiler."), "cannot build its launcher.*install a C compiler"),
        (CalledProcessError(1, "gcc"), "cannot build its launcher.*gcc.*install a C compiler and Python's headers"),
    ],
)
def test_what_keeps_triton_from_a_device_is_told(on_gpus, monkeypatch, error, message):
    triton = pytest.importorskip("triton")

    def fail():
        raise error

    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    driver = SimpleNamespace(active=SimpleNamespace(get_current_target=fail))
    monkeypatch.setattr(triton.runtime, "driver", driver)
    with pytest.raises(kernel_table.BackendError, match=f'{message}.*or pass backend="reference"') as raised:
        kernel_table.backend("triton", "cuda:0")
    assert "pip" not in str(raised.value)


def test_modules_on_devices_that_cannot_be_used():
    x = noise(1, 3, 8, 8)
    with pytest.raises(InputError, match="weight is on the meta device"):
        retouch.compile(nn.Conv2d(3, 4, 3, device="meta").eval(), (x,))
    with pytest.raises(InputError, match=r"weight is on cpu, argument .* on cuda:0; move the module"):
        incremental._device([("weight", x), ("argument [0]", FarAway(1)), ("argument [1]", x)])


def test_numbers_without_a_dimension_may_be_elsewhere():
    assert incremental._device([("time", torch.tensor(1.0)), ("weight", FarAway(4))]) == FarAway.device
    assert incremental._device([("time", torch.tensor(1.0))]) == CPU


def test_what_was_chosen_is_told():
    net = compiled("taesd", SHARED, "reference")
    assert (net.backend.name, net.backend.device) == ("reference", CPU)
    assert "reference on cpu" in repr(net)
    assert 'reference kernels on cpu ("auto" would take cpu)' in str(net.explain())
    assert 'cpu kernels on cpu (chosen by "auto" for cpu)' in str(compiled("taesd", SHARED).explain())
