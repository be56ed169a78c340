"""Networks computed in int8: the invariants hold as for floats, and errors stay small."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import retouch
from retouch import Region
from retouch.passes import arithmetic
from support import BACKENDS, EXACT, SHARED, error, fill, noise, same, state

MASK = torch.zeros(24, 20, dtype=torch.bool)
MASK[8:13, 6:12] = True


class Net(nn.Module):
    """Residual blocks with a norm, a wide 1x1 layer, and a skip connection that is concatenated."""

    def __init__(self, norm: bool = True, channels: int = 48) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.norm = nn.GroupNorm(4, channels) if norm else nn.Identity()
        self.down = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)
        self.point = nn.Conv2d(3 * channels, channels, 1)
        self.last = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, x):
        x = self.first(x)
        for conv in self.blocks:
            x = x + conv(F.silu(self.norm(x)))
        y = F.interpolate(F.relu(self.down(x)), scale_factor=2.0, mode="nearest")
        return self.last(F.silu(self.point(torch.cat([y, x], 1))))


@pytest.fixture(autouse=True)
def whatever_it_costs(monkeypatch):
    """Every inner layer is in int8."""
    monkeypatch.setattr(arithmetic, "BUDGET", 1.0)


def network(policy=EXACT, backend="cpu", dtype=torch.float32, kind="int8", norm=True):
    module = fill(Net(norm)).to(dtype)
    x = noise(1, 3, 24, 20).to(dtype)
    edited = torch.where(MASK, noise(1, 3, 24, 20, seed=1).to(dtype), x)
    net = retouch.compile(module, x, policy=policy, backend=backend, arithmetic=kind)
    return net, x, edited


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_exact_update_is_a_fresh_recording_bit_for_bit(dtype):
    net, x, edited = network(dtype=dtype, norm=False)
    y, recording = net.record(x)
    updated = net.update(recording, Region.from_mask(MASK), edited)
    fresh, again = net.record(edited)
    assert not torch.equal(updated, y)
    assert torch.equal(updated, fresh)
    assert same(state(recording), state(again))


def test_rows_outside_stay_and_undo_restores():
    net, x, edited = network(SHARED)
    y, recording = net.record(x)
    before, region = state(recording), Region.from_mask(MASK)
    updated = net.update(recording, region, edited)
    outside = ~net.active_mask(region).expand_as(y[:, 0])
    assert outside.any()
    assert torch.equal(updated.movedim(1, -1)[outside], y.movedim(1, -1)[outside])
    recording.undo()
    assert same(before, state(recording))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_near_the_dense_network(backend, dtype):
    net, _, edited = network(backend=backend, dtype=dtype)
    assert "int8_gemm" in {name for op in net.program.ops for name in op.kernels}
    dense = fill(Net())(edited.float())
    assert 0 < error(net.record(edited)[0].float(), dense) < 0.05


def test_several_recordings_together():
    net, x, edited = network()
    region = Region.from_mask(MASK)
    recordings = [net.record(x)[1] for _ in range(2)]
    together = net.update_many(recordings, region, [((edited,), {}), ((edited,), {})])
    alone = net.update(net.record(x)[1], region, edited)
    assert torch.equal(together[0], alone)
    assert torch.equal(together[1], alone)


def test_the_number_of_threads_changes_nothing():
    net, x, _ = network()
    one = net.record(x)[0]
    torch.set_num_threads(3)
    try:
        assert torch.equal(net.record(x)[0], one)
    finally:
        torch.set_num_threads(2)


def test_weights_take_a_quarter_of_the_memory():
    int8, plain = (network(kind=kind)[0].packed_bytes for kind in ("int8", "float"))
    assert int8 < 0.35 * plain


def test_explain_names_the_kernel():
    net, *_ = network()
    assert "int8_gemm" in str(net.explain(Region.from_mask(MASK)))


def test_changed_weights_are_quantised_again():
    net, x, _ = network()
    before = net.record(x)[0]
    net.module.blocks[0].weight.data.mul_(1.5)
    again = net.record(x)[0]
    wanted = retouch.compile(net.module, x, policy=EXACT, backend="cpu", arithmetic="int8").record(x)[0]
    assert not torch.equal(again, before)
    assert torch.equal(again, wanted)
