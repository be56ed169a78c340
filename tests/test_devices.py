"""Tensors between the host and the networks' device."""

from types import SimpleNamespace

import torch
from torch import nn

from retouch.devices import HOST, device_of, moved
from retouch.session import run_whole

META = torch.device("meta")


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

    def module(x, *, scale):
        seen.extend([x.device, scale.device])
        return torch.zeros(1)

    net = SimpleNamespace(backend=SimpleNamespace(device=META), module=module)
    assert run_whole(net, torch.zeros(1), scale=torch.ones(1)).device == HOST
    assert seen == [META, META]
