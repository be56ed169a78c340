"""From modules to graphs."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest
import torch
from torch import nn

import retouch
from retouch import CaptureError
from support import fill, noise

X = noise(1, 3, 8, 8)


class Branching(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x - 1


class Reading(nn.Module):
    def forward(self, x):
        return x[:, :, : int(x.abs().max())]


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("runs", torch.zeros(1))

    def forward(self, x):
        self.runs += 1
        return x + self.runs


class Failing(nn.Module):
    def forward(self, x):
        raise ValueError("the wheels came off")


@pytest.mark.parametrize("module", [Branching(), Reading()], ids=["branch", "number"])
def test_control_flow_on_data_is_refused_with_the_reason(module):
    with pytest.raises(CaptureError, match=r"depends on tensor data.*Compile the parts around it"):
        retouch.compile(module.eval(), (X,))


def test_training_mode_is_refused():
    with pytest.raises(CaptureError, match=r"training mode; call \.eval\(\) first"):
        retouch.compile(nn.Conv2d(3, 4, 3), (X,))


def test_a_part_in_training_mode_is_refused():
    """Batch norm that updates its statistics, dropout that is random."""
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    module[1].train()
    with pytest.raises(CaptureError, match=r"training mode|in place"):
        retouch.compile(module, (X,))


def test_changed_buffers_are_refused():
    with pytest.raises(CaptureError, match=r"in place.*runs"):
        retouch.compile(Counting().eval(), (X,))


def test_the_modules_own_error_is_shown():
    with pytest.raises(CaptureError, match="the wheels came off"):
        retouch.compile(Failing().eval(), (X,))


def test_control_flow_on_fixed_arguments_is_followed():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x, steps=2, double=False):
            for _ in range(steps):
                x = self.conv(x)
            return x * 2 if double else x

    module = fill(Fixed())
    net = retouch.compile(module, (X,), {"steps": 3, "double": True})
    y, _ = net.record(X, steps=3, double=True)
    torch.testing.assert_close(y, module(X, 3, True))


def test_literals_and_shared_parameters(backend):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(3, 3, 3, padding=1)
            self.b = self.a

        def forward(self, x):
            return self.b(self.a(x)) * torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)

    module = fill(Shared())
    net = retouch.compile(module, (X,), backend=backend)
    torch.testing.assert_close(net.record(X)[0], module(X))
    module.a.weight.data.mul_(2)
    torch.testing.assert_close(net.record(X)[0], module(X))


class Slow(nn.Module):
    """Waits while it is captured, when another thread asks for it."""

    def __init__(self):
        super().__init__()
        self.conv = fill(nn.Conv2d(3, 3, 3, padding=1), 0)
        self.captured, self.go_on, self.waits = Event(), Event(), False

    def forward(self, x):
        if self.waits and torch.compiler.is_exporting():
            self.captured.set()
            self.go_on.wait(0.3)
        return self.conv(x)


def test_a_module_that_is_captured_again_is_run_and_updated_meanwhile():
    """By another thread: it waits, and finds the module's own tensors."""
    module = Slow().eval()
    net = retouch.compile(module, (X,))
    expected, recording = net.record(X)
    other, module.waits = noise(1, 3, 16, 16), True
    with ThreadPoolExecutor(1) as pool:
        again = pool.submit(retouch.compile, module, (other,))
        assert module.captured.wait(60)
        with torch.no_grad():
            assert torch.equal(net(X), module.conv(X))
        region = retouch.Region.from_mask(np.eye(8, dtype=bool))
        torch.testing.assert_close(net.update(recording, region, X), expected)
        assert again.result(60).record(other)[0].shape == other.shape
