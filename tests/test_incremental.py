"""The compiled module: how it is called, what it refuses, and what a failure leaves behind."""

import re
import threading
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import retouch
from retouch import InputError, Policy, Region, RegionError, UnsupportedError
from retouch.kernels.reference import Reference
from retouch.runtime.executor import Direct
from support import BACKENDS, EXACT, SHARED, edit, error, fill, noise, same, spot, state


class Small(nn.Module):
    """An image, a vector; convolution, group norm, attention, convolution."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.norm, self.time = nn.GroupNorm(2, 8), nn.Linear(6, 8)
        self.qkv = nn.Conv2d(8, 24, 1)
        self.config = {"channels": 8}

    def forward(self, x, t, return_dict=True, scale=None):
        x = self.first(x) + self.time(t)[:, :, None, None]
        q, k, v = (p.flatten(2).mT for p in self.qkv(F.silu(self.norm(x))).chunk(3, 1))
        x = x + F.scaled_dot_product_attention(q, k, v).mT.view_as(x)
        x = self.last(x) if scale is None else self.last(x) * scale
        return {"sample": x} if return_dict else (x,)


X, T = noise(1, 3, 16, 16), noise(1, 6, seed=1)
MASK = spot(16, 16)
REGION = Region.from_mask(MASK)
EDITED = edit(X, MASK)


@cache
def small(backend="cpu", policy=SHARED):
    return retouch.compile(fill(Small()), (X, T, False), policy=policy, backend=backend)


@pytest.fixture
def net():
    return small()


# Calls


def test_calling_it_runs_the_dense_module(net):
    assert torch.equal(net(X, T)["sample"], net.module(X, T)["sample"])


def test_attributes_are_the_modules(net):
    assert net.config == {"channels": 8}
    assert net.first is net.module.first
    assert next(net.parameters()) is net.module.first.weight
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = net.nothing_of_the_kind


def test_keywords_defaults_and_order_do_not_matter(net):
    expected, _ = net.record(X, T, False)
    for args, kwargs in (
        ((X,), {"t": T, "return_dict": False}),
        ((), {"return_dict": False, "t": T, "x": X}),
        ((X, T), {"return_dict": False, "scale": None}),
        ((X, T, False, None), {}),
    ):
        assert torch.equal(net.record(*args, **kwargs)[0][0], expected[0])


def test_other_fixed_arguments_are_refused(net):
    with pytest.raises(InputError, match="return_dict"):
        net.record(X, T)
    with pytest.raises(InputError, match=r"compile again"):
        net.record(X, T, False, 2.0)
    with pytest.raises(InputError, match=r"unexpected|forward"):
        net.record(X, T, False, strength=2)
    with pytest.raises(InputError, match="forward"):
        net.record(X)


def test_results_have_the_modules_structure():
    net = retouch.compile(fill(Small()), (X,), {"t": T})
    y, _ = net.record(X, t=T)
    assert list(y) == ["sample"]
    assert error(y["sample"], net.module(X, T)["sample"]) < 1e-5


@dataclass
class Pair:
    image: torch.Tensor
    vector: torch.Tensor
    count: int = 0


torch.export.register_dataclass(Pair, serialized_type_name="tests.Pair")


class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(6, 2)

    def forward(self, x, t):
        y = self.conv(x)
        vector = self.linear(t)
        return Pair(y, vector, 7), [x, y.flatten(2).mT], {"half": y[:, 2:], "none": None}


def test_several_results_of_several_kinds(backend):
    module = fill(Several())
    net = retouch.compile(module, (X, T), policy=EXACT, backend=backend)
    _, recording = net.record(X, T)
    pair, (image, tokens), rest = net.update(recording, REGION, EDITED, T * 2)
    expected, (_, expected_tokens), expected_rest = module(EDITED, T * 2)
    assert isinstance(pair, Pair)
    assert pair.count == 7
    assert error(pair.image, expected.image) < 1e-5
    assert error(pair.vector, expected.vector) < 1e-5
    assert torch.equal(image, EDITED)
    assert error(tokens, expected_tokens) < 1e-5
    assert error(rest["half"], expected_rest["half"]) < 1e-5
    assert rest["none"] is None


def test_a_result_is_a_copy(net):
    (y,), recording = net.record(X, T, False)
    before = state(recording)
    y.zero_()
    assert same(before, state(recording))


def test_recorded_inputs_are_copies(net):
    x, t = X.clone(), T.clone()
    (y,), recording = net.record(x, t, False)
    x.zero_(), t.zero_()
    (again,) = net.update(recording, REGION, X, T, False)
    assert error(again, y) < 1e-6


@pytest.mark.parametrize("policy", [SHARED, EXACT], ids=str)
def test_the_layout_of_inputs_in_memory_does_not_matter(backend, policy):
    net = small(backend, policy)
    (y,), recording = net.record(X, T, False)
    (expected,) = net.update(recording, REGION, EDITED, T, False)
    x, edited = (t.to(memory_format=torch.channels_last) for t in (X, EDITED))
    (other,), recording = net.record(x, T.repeat(1, 2)[:, ::1][:, :6], False)
    assert torch.equal(other, y)
    assert torch.equal(net.update(recording, REGION, edited, T, False)[0], expected)


def test_expanded_inputs(backend):
    module = fill(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)))
    x = noise(1, 3, 8, 8).expand(2, -1, -1, -1)
    net = retouch.compile(module, (x,), backend=backend, policy=EXACT)
    _, recording = net.record(x)
    edited = edit(x[:1], spot(8, 8)).expand(2, -1, -1, -1)
    y = net.update(recording, Region.from_mask(spot(8, 8)), edited)
    assert error(y, module(edited)) < 1e-5


@pytest.mark.parametrize("policy", [SHARED, Policy(crossover=0.01)], ids=["sparse", "whole"])
def test_inference_mode_and_gradients_do_not_matter(backend, policy):
    """A recording made in inference mode is updated, undone and redone out of it, and the reverse."""
    module = fill(Small()).requires_grad_(True)
    net = retouch.compile(module, (X, T, False), policy=policy, backend=backend)
    with torch.inference_mode():
        (y,), recording = net.record(X, T, False)
    (updated,) = net.update(recording, REGION, EDITED.clone().requires_grad_(True), T, False)
    assert not updated.requires_grad
    recording.undo()
    recording.redo()
    with torch.inference_mode():
        net.update(recording, REGION, X, T, False)
    recording.undo()
    recording.undo()
    empty = Region.from_mask(MASK & False)
    assert torch.equal(net.update(recording, empty, X, T, False)[0], y)


def test_threads_are_those_of_pytorch(monkeypatch):
    net, seen = small("cpu"), []
    monkeypatch.setattr(net.backend, "set_threads", seen.append)
    _, recording = net.record(X, T, False)
    torch.set_num_threads(2)
    try:
        net.update(recording, REGION, EDITED, T, False)
    finally:
        torch.set_num_threads(1)
    assert seen == [1, 2]


def test_the_extension_uses_the_threads_it_is_told():
    cpu = pytest.importorskip("retouch.kernels.cpu")
    small("cpu").record(X, T, False)
    assert cpu.num_threads() == torch.get_num_threads() == 1


# Bad input

WRONG = {
    "shape": ((X[..., :8], T), r"shape \[1, 3, 16, 8\]; compiled for \[1, 3, 16, 16\]"),
    "batch": ((X.repeat(2, 1, 1, 1), T.repeat(2, 1)), r"shape \[2, 3, 16, 16\]"),
    "dtype": ((X.double(), T), "dtype torch.float64"),
    "dtype of a vector": ((X, T.bfloat16()), "dtype torch.bfloat16"),
    "device": ((X.to("meta"), T), "device meta"),
    "no tensor": ((X, 3), "int; the example was a tensor"),
    "array": ((X.numpy(), T), "ndarray"),
    "NaN": ((X.masked_fill(MASK, float("nan")), T), "NaN or infinite"),
    "infinity": ((X, T / 0), "NaN or infinite"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_refused(name, net):
    args, reason = WRONG[name]
    _, recording = net.record(X, T, False)
    before = state(recording)
    with pytest.raises(InputError, match=reason):
        net.record(*args, False)
    with pytest.raises(InputError, match=reason):
        net.update(recording, REGION, *args, False)
    assert same(before, state(recording))


@pytest.mark.parametrize(
    ("size", "fits"),
    [((16, 16), True), ((32, 32), True), ((48, 48), True), ((8, 8), False), ((16, 32), False),
     ((24, 24), False), ((17, 16), False)],
)  # fmt: skip
def test_grids_of_regions(net, size, fits):
    _, recording = net.record(X, T, False)
    region = Region.from_mask(spot(*size))
    if fits:
        assert net.update(recording, region, EDITED, T, False)[0].isfinite().all()
        return
    for call in (
        lambda: net.update(recording, region, EDITED, T, False),
        lambda: net.explain(region),
        lambda: net.active_mask(region),
    ):
        with pytest.raises(RegionError, match=r"the region is \d+x\d+; this network takes 16x16"):
            call()


def test_a_region_on_the_grid_of_the_output():
    module = fill(nn.Sequential(nn.Conv2d(3, 4, 3, stride=3, padding=1)))
    net = retouch.compile(module, (noise(1, 3, 24, 24),), policy=SHARED)
    assert net.active_mask(Region.from_mask(spot(8, 8))).shape == (1, 8, 8)


def test_a_region_with_another_number_of_samples():
    module = fill(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)))
    x = noise(3, 3, 16, 16)
    net = retouch.compile(module, (x,), policy=SHARED)
    _, recording = net.record(x)
    with pytest.raises(RegionError, match="2 samples and the batch 3"):
        net.update(recording, Region.from_mask(torch.stack([MASK, MASK])), x)


def test_what_is_no_region_or_recording(net):
    y, recording = net.record(X, T, False)
    with pytest.raises(TypeError, match=r"Region\.from_mask"):
        net.update(recording, MASK, X, T, False)
    with pytest.raises(TypeError, match=r"record\(\) returned, not a tuple"):
        net.update((y, recording), REGION, X, T, False)
    with pytest.raises(TypeError, match="not a NoneType"):
        net.update(None, REGION, X, T, False)


def test_a_recording_of_another_compiled_module(net):
    other = retouch.compile(net.module, (X, T, False), policy=SHARED)
    _, recording = other.record(X, T, False)
    with pytest.raises(InputError, match="another compiled module"):
        net.update(recording, REGION, EDITED, T, False)


MASKS = {
    "one pixel": spot(16, 16, 8, 8, 1),
    "corner": spot(16, 16, 0, 0, 1),
    "last corner": spot(16, 16, 15, 15, 1),
    "edge": spot(16, 16, 5, 0, 3),
    "row": torch.arange(256).view(16, 16) // 16 == 4,
    "scattered": torch.rand(16, 16, generator=torch.Generator().manual_seed(0)) < 0.1,
    "checkerboard": torch.arange(256).view(16, 16) % 3 == 0,
    "full": torch.ones(16, 16, dtype=torch.bool),
    "empty": torch.zeros(16, 16, dtype=torch.bool),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_of_every_form(name, backend):
    net, mask = small(backend, EXACT), MASKS[name]
    edited = edit(X, mask)
    (y,), recording = net.record(X, T, False)
    (updated,) = net.update(recording, Region.from_mask(mask), edited, T, False)
    assert error(updated, net.module(edited, T, False)[0]) < 1e-5
    assert torch.equal(updated, y) == (name == "empty")


def test_a_module_without_an_image_cannot_be_updated():
    module = fill(nn.Sequential(nn.Linear(6, 4)))
    net = retouch.compile(module, (T,))
    y, recording = net.record(T)
    assert error(y, module(T)) < 1e-6
    with pytest.raises(RegionError, match="no image"):
        net.update(recording, REGION, T)


def test_unknown_policy_and_backend():
    with pytest.raises(ValueError, match=r"unknown policy 'slow'; presets are paper, balanced"):
        retouch.compile(Small().eval(), (X, T), policy="slow")
    with pytest.raises(ValueError, match="unknown backend 'gpu'"):
        retouch.compile(Small().eval(), (X, T), backend="gpu")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_precisions_are_refused(dtype):
    with pytest.raises(InputError, match=f"not {dtype}"):
        retouch.compile(fill(Small()).to(dtype), (X.to(dtype), T.to(dtype)))


# Failures


class Broken(RuntimeError):
    pass


def _fail_after(monkeypatch, net, count):
    """Kernels fail after `count` calls of a schedule; those before have written their rows."""
    real = Direct.run

    def run(self, schedule, state):
        left = [count]

        def guard(function):
            def call(*args):
                if left[0] == 0:
                    raise Broken
                left[0] -= 1
                return function(*args)

            return call

        steps = tuple(type(c)(guard(c.function), c.args, c.host) for c in schedule.steps)
        self._parts = []
        try:
            real(self, replace(schedule, steps=steps, pattern=None), state)
        finally:
            self._parts = []

    monkeypatch.setattr(Direct, "run", run)
    return real


@pytest.mark.parametrize("count", [0, 1, 3, 6])
@pytest.mark.parametrize("policy", [SHARED, EXACT, Policy(crossover=0.01)], ids=["a", "b", "c"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_failed_update_leaves_the_recording_as_it_was(backend, policy, count, monkeypatch):
    net = small(backend, policy)
    _, recording = net.record(X, T, False)
    net.update(recording, REGION, EDITED, T, False)
    net.update(recording, REGION, X, T * 2, False)
    recording.undo()
    before = state(recording)
    with monkeypatch.context() as patch:
        _fail_after(patch, net, count)
        with pytest.raises(Broken):
            net.update(recording, REGION, X, T * 3, False)
    assert same(before, state(recording))
    recording.redo()
    recording.undo()
    assert same(before, state(recording))
    (updated,) = net.update(recording, REGION, X, T * 3, False)
    _, other = net.record(X, T, False)
    net.update(other, REGION, EDITED, T, False)
    assert torch.equal(updated, net.update(other, REGION, X, T * 3, False)[0])


def test_a_failed_recording_leaves_the_module_usable(monkeypatch):
    net = small("reference")
    kernels = {"gemm": lambda *_: (_ for _ in ()).throw(Broken())}
    other = retouch.compile(fill(Small()), (X, T, False), policy=SHARED, backend="reference")
    real = Reference.kernel
    with monkeypatch.context() as patch:
        patch.setattr(Reference, "kernel", lambda s, n: kernels.get(n) or real(s, n))
        with pytest.raises(Broken):
            other.record(X, T, False)
    assert torch.equal(net.record(X, T, False)[0][0], net.record(X, T, False)[0][0])


def test_interrupting_an_update_leaves_the_recording_as_it_was(monkeypatch, net):
    _, recording = net.record(X, T, False)
    before = state(recording)
    real = Direct.run

    def interrupted(self, schedule, target):
        real(self, schedule, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Direct, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            net.update(recording, REGION, EDITED, T * 2, False)
    assert same(before, state(recording))


# Reports


def test_explain_is_a_readable_table(net):
    explained = net.explain(REGION)
    assert 0 < explained.macs_active < explained.macs_dense
    assert explained.kept_bytes == sum(line.kept_bytes for line in explained.lines) + X.nbytes
    text = str(explained)
    assert "gemm[3->8 3x3" in text
    assert "attention[1 heads, 256 keys]" in text
    assert "every operation has a rule" in text
    assert str(net.explain()).count("256 of 256") > 3


def test_active_mask_is_the_dilated_region(net):
    mask = net.active_mask(REGION)
    assert mask.shape == (1, 16, 16)
    assert torch.equal(mask[0], torch.tensor(REGION.dilated(2).mask[0]))


def test_repr_names_what_was_compiled(net):
    assert repr(net) == "Incremental(Small, shared, cpu on cpu, grids 16x16)"


def test_many_regions_and_two_recordings(net):
    """Schedules are shared and forgotten without mixing recordings up."""
    first, second = net.record(X, T, False)[1], net.record(EDITED, T, False)[1]
    regions = [Region.from_mask(spot(16, 16, i, i, 2)) for i in range(8)]
    expected = []
    for i, region in enumerate([*regions, *regions]):
        x = edit(X, spot(16, 16, i % 8, i % 8, 2), seed=i % 8)
        y = net.update(first, region, x, T, False)[0]
        net.update(second, region, EDITED, T, False)
        first.undo()
        second.undo()
        if i < 8:
            expected.append(y)
        else:
            assert torch.equal(y, expected[i - 8])


# What a compiled module refuses


@pytest.mark.parametrize("name", ["to", "half", "bfloat16", "cuda", "cpu", "double"])
def test_a_compiled_module_is_not_moved(name, net):
    with pytest.raises(UnsupportedError, match=f"{name}\\(\\) cannot be done with a compiled module"):
        getattr(net, name)()
    assert net.module.training is False
    assert next(net.module.parameters()).dtype == torch.float32


def test_a_compiled_module_stays_in_evaluation_mode(net):
    with pytest.raises(UnsupportedError, match="cannot be trained"):
        net.train()
    assert net.eval() is net
    assert net.train(False) is net


def test_every_error_of_the_caller_is_at_the_top_and_has_one_base():
    exported = {name for name in retouch.__all__ if name.endswith("Error")}
    assert all(issubclass(getattr(retouch, name), retouch.RetouchError) for name in exported)
    files = Path(retouch.__file__).parent.rglob("*.py")
    written = {name for file in files for name in re.findall(r"^class (\w+Error)\(", file.read_text(), re.MULTILINE)}
    # defects, what lowering says to itself, and the OSError of a store that does not answer
    assert written - exported == {"VerificationError", "LayoutError", "StorageError"}


def test_an_undo_waits_for_an_update_of_another_thread(net):
    _, recording = net.record(X, T, False)
    before = state(recording)
    net.update(recording, REGION, EDITED, T, False)
    undone = threading.Thread(target=recording.undo)
    with net.lock:
        undone.start()
        undone.join(0.1)
        assert undone.is_alive()
        assert recording.deltas
    undone.join(10)
    assert same(before, state(recording))


def test_what_updates_gain_together_is_predicted_once_for_a_region_and_a_count(net, monkeypatch):
    asked, gain = [], net.planner.gain
    monkeypatch.setattr(net.planner, "break_even", lambda active: 0)
    monkeypatch.setattr(net.planner, "gain", lambda active, count: asked.append(count) or gain(active, count))
    found = [net.gain(REGION, count) for count in (2, 8, 2, 8)]
    assert asked == [2, 8]
    assert found[:2] == found[2:]
