"""Weights that change under a compiled module."""

import pytest
import torch
from torch import nn

import retouch
from retouch import Region, WeightsChangedError
from support import EXACT, edit, error, fill, noise, same, spot, state

X, MASK = noise(1, 3, 12, 12), spot(12, 12)
REGION = Region.from_mask(MASK)


def _module(seed=0):
    return fill(nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.PReLU(8), nn.GroupNorm(2, 8),
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ConvTranspose2d(8, 4, 2, stride=2),
    ), seed)  # fmt: skip


def _all(module):
    return [*module.parameters(), *(b for b in module.buffers() if b.is_floating_point())]


CHANGES = {
    "in place through .data": lambda m: m[0].weight.data.add_(0.1),
    "a fused adapter": lambda m: m[0].weight.data.copy_(m[0].weight + 0.05),
    "bias": lambda m: m[5].bias.data.add_(1),
    "norm": lambda m: m[3].weight.data.mul_(2),
    "running mean": lambda m: m[1].running_mean.add_(1),
    "slope": lambda m: m[2].weight.data.neg_(),
    "depthwise": lambda m: m[4].weight.data.mul_(-1),
    "transposed": lambda m: m[5].weight.data.mul_(-1),
    "one number": lambda m: m[0].weight.data.view(-1)[0].add_(1),
    "the last number": lambda m: m[5].weight.data.view(-1)[-1].add_(1),
    "two exchanged": lambda m: m[0].weight.data.copy_(m[0].weight.flip(0).clone()),
    "no_grad": lambda m: m[0].weight.detach().mul_(0.5),
    "loaded": lambda m: m.load_state_dict(_module(1).state_dict()),
    "assigned": lambda m: m.load_state_dict(_module(1).state_dict(), assign=True),
    "replaced parameter": lambda m: setattr(m[0], "weight", nn.Parameter(m[0].weight * 2, False)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_weights_are_noticed_and_taken_over(name, backend):
    module = _module()
    net = retouch.compile(module, (X,), policy=EXACT, backend=backend)
    _, recording = net.record(X)
    before = state(recording)
    CHANGES[name](module)
    with pytest.raises(WeightsChangedError, match="record again"):
        net.update(recording, REGION, edit(X, MASK))
    assert same(before, state(recording))

    y, recording = net.record(X)
    assert error(y, module(X)) < 1e-5
    edited = edit(X, MASK)
    assert error(net.update(recording, REGION, edited), module(edited)) < 1e-5


def test_weights_that_come_back_fit_the_old_recording(backend):
    module = _module()
    net = retouch.compile(module, (X,), policy=EXACT, backend=backend)
    _, recording = net.record(X)
    kept = [t.clone() for t in _all(module)]
    for tensor in _all(module):
        tensor.data.add_(0.5)
    _, other = net.record(X)
    with pytest.raises(WeightsChangedError):
        net.update(recording, REGION, edit(X, MASK))
    for tensor, old in zip(_all(module), kept, strict=True):
        tensor.data.copy_(old)
    with pytest.raises(WeightsChangedError):
        net.update(other, REGION, edit(X, MASK))
    net.record(X)
    edited = edit(X, MASK)
    assert error(net.update(recording, REGION, edited), module(edited)) < 1e-5


def test_unchanged_contents_are_no_change(backend):
    """Moved in memory, in another memory layout: still the same weights."""
    module = _module()
    net = retouch.compile(module, (X,), policy=EXACT, backend=backend)
    _, recording = net.record(X)
    module.load_state_dict({k: v.clone() for k, v in module.state_dict().items()}, assign=True)
    module.requires_grad_(False)
    edited = edit(X, MASK)
    assert error(net.update(recording, REGION, edited), module(edited)) < 1e-5
    module.to(memory_format=torch.channels_last)
    y, _ = net.record(X)
    assert error(y, module(X)) < 1e-5


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.to(torch.bfloat16),
        lambda m: setattr(m[0], "weight", nn.Parameter(torch.ones(8, 3, 5, 5), False)),
        lambda m: m.__setitem__(0, nn.Identity()),
        lambda m: m.__setitem__(0, fill(nn.Conv2d(3, 8, 3, padding=1), 7)),
        lambda m: setattr(m[0], "bias", None),
        lambda m: m.__delitem__(5),
    ],
    ids=["dtype", "shape", "layer gone", "layer replaced", "bias gone", "fewer layers"],
)
def test_weights_of_another_kind_need_compiling_again(change):
    module = _module()
    net = retouch.compile(module, (X,), policy=EXACT)
    _, recording = net.record(X)
    change(module)
    with pytest.raises(WeightsChangedError, match="compile the module again"):
        net.record(X)
    with pytest.raises(WeightsChangedError):
        net.update(recording, REGION, edit(X, MASK))


def test_weights_computed_from_parameters_follow_them(backend):
    module = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)))
    fill(module)
    net = retouch.compile(module, (X,), backend=backend)
    net.record(X)
    module[0].parametrizations.weight.original0.data.mul_(3)
    assert error(net.record(X)[0], module(X)) < 1e-5


def test_packed_bytes_are_those_of_the_convolutions():
    net = retouch.compile(_module(), (X,), backend="reference")
    assert net.packed_bytes == 4 * (8 * 3 * 9 + 8 * 4 * 4)


def test_weights_in_another_memory_order_are_the_same_weights(backend):
    module = _module()
    net = retouch.compile(module, (X,), policy=EXACT, backend=backend)
    _, recording = net.record(X)
    hashes = list(net.weights.hashes)
    module.to(memory_format=torch.channels_last)
    assert not module[0].weight.is_contiguous()
    y, other = net.record(X)
    assert net.weights.hashes == hashes
    assert error(y, module(X)) < 1e-5
    edited = edit(X, MASK)
    for each in (recording, other):
        assert error(net.update(each, REGION, edited), module(edited)) < 1e-5
    module[0].weight.data[0] += 1
    net.record(X)
    assert net.weights.hashes != hashes
