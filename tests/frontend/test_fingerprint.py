"""The digest of what a module calls: the same for the same graph, another one whatever makes another graph."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from retouch.frontend.fingerprint import Unfollowed, _Follower, fingerprint
from support import fill, noise

X = noise(1, 3, 8, 8)
HOST = torch.device("cpu")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8)
        self.scale, self.table, self.others = 2.0, noise(8, 1, 1), [noise(8, 1, 1)]
        self.register_buffer("shift", noise(8, 1, 1))
        self.held = {}

    def forward(self, x, text=None, flag=False):
        y = activated(self.norm(self.conv(x)) * self.scale + self.table + self.others[0] + self.shift)
        y = y + torch.arange(8, device=x.device)[:, None, None] if flag else y
        return {"y": y, "none": None}


def activated(x):
    return F.silu(x)


@pytest.fixture
def net():
    return fill(Net())


def digest(net, *args, **kwargs):
    return fingerprint(net, args or (X,), kwargs, HOST).digest


def test_the_same_module_and_other_weights_have_one_digest(net):
    assert digest(net) == digest(net) == digest(deepcopy(net)) == digest(fill(Net(), 3), noise(1, 3, 8, 8, seed=9))


def hooked(net):
    net.conv.register_forward_hook(lambda module, args, out: out + 1)


def patched(net):
    net.conv.forward = lambda x: F.conv2d(x, net.conv.weight, None, padding=1)


CHANGES = {
    "number": lambda net: setattr(net, "scale", 3.0),
    "kind of number": lambda net: setattr(net, "scale", 2),
    "configuration": lambda net: setattr(net.norm, "num_groups", 4),
    "tensor": lambda net: net.table.add_(1),
    "tensor in a list": lambda net: net.others[0].add_(1),
    "bias": lambda net: setattr(net.conv, "bias", None),
    "another order": lambda net: setattr(net, "others", [net.table]),
    "shape": lambda net: setattr(net, "conv", nn.Conv2d(3, 8, 5, padding=2)),
    "strides": lambda net: net.conv.to(memory_format=torch.channels_last),
    "dtype of a buffer": lambda net: setattr(net, "shift", net.shift.double().float().half()),
    "hook": hooked,
    "method": patched,
    "layer": lambda net: setattr(net, "norm", nn.Sequential(net.norm, nn.ReLU())),
    "name": lambda net: (net.__setattr__("other", net.conv), delattr(net, "conv"), setattr(net, "conv", net.other)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_makes_another_graph_has_another_digest(net, change):
    before = digest(net)
    change(net)
    assert digest(net) != before


def test_functions_that_somebody_replaced_are_seen(net, monkeypatch):
    before = digest(net)
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "activated", F.relu)
        assert digest(net) != before
    with monkeypatch.context() as patch:
        patch.setattr(F, "silu", lambda x: x * torch.sigmoid(x))
        assert digest(net) != before
    assert digest(net) == before


def test_arguments_are_part_of_it(net):
    found = [
        digest(net), digest(net, noise(1, 3, 8, 9)), digest(net, X, flag=True), digest(net, X, torch.zeros(1)),
        digest(net, X, None, 1), digest(net, X.to(memory_format=torch.channels_last)),
    ]  # fmt: skip
    assert len(set(found)) == len(found)


def test_outputs_are_put_together_as_the_module_does(net):
    found = fingerprint(net, (X,), {}, HOST)
    assert torch.utils._pytree.tree_unflatten([1, 2], found.out_spec) == {"y": 1, "none": 2}
    assert found.tensors["shift"] is net.shift
    assert any(tensor is net.others[0] for tensor in found.tensors.values())


class Counting(Net):
    def forward(self, x):
        self.scale = self.scale + 1
        return super().forward(x)


class Holding(Net):
    def forward(self, x):
        self.held[x.shape] = x
        self.others.append(x)
        return super().forward(x)


class Asking(Net):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else x


class Catching(Net):
    def forward(self, x):
        try:
            return x * x.sum().item()
        except RuntimeError:
            return x


class Outside(Net):
    def forward(self, x):
        with torch._C.DisableTorchFunction():
            y = x + 1
        return self.conv(y)


@pytest.mark.parametrize("kind", [Counting, Holding, Asking, Catching, Outside])
def test_what_cannot_be_followed_has_none_and_is_left_as_it_was(kind):
    net, wanted = fill(kind()), fill(Net())
    state, attributes = torch.get_rng_state(), dict(vars(net))
    with pytest.raises(Unfollowed):
        digest(net)
    assert vars(net) == attributes
    assert net.scale == wanted.scale
    assert not net.held
    assert len(net.others) == 1
    assert torch.equal(torch.get_rng_state(), state)


def test_random_numbers_are_not_drawn(net):
    net.conv.forward = lambda x: torch.randn(1, 8, 8, 8)
    state = torch.get_rng_state()
    digest(net)
    assert torch.equal(torch.get_rng_state(), state)


def test_autocast_and_parts_compiled_by_pytorch_are_not_followed(net):
    with torch.autocast("cpu"), pytest.raises(Unfollowed, match="autocast"):
        digest(net)
    net.conv.compile()
    with pytest.raises(Unfollowed, match="compiled by PyTorch"):
        digest(net)


def test_code_is_told_that_it_is_captured(net):
    asked = []
    net.register_forward_hook(lambda *_: asked.append((torch.compiler.is_compiling(), torch.compiler.is_exporting())))
    digest(net)
    assert asked == [(True, True)]
    assert not torch.compiler.is_exporting()


def test_every_result_has_the_shape_that_the_module_gives_it(net, monkeypatch):
    """Shapes that are remembered are those that PyTorch says."""
    before = digest(net)
    monkeypatch.setattr(_Follower, "_made", _forgetful(_Follower._made))
    assert digest(net) == before


def _forgetful(made):
    def call(self, *args):
        self._results.clear()
        return made(self, *args)

    return call
