"""Probed statistics: what a few scattered rows tell about the rest of the map."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import retouch
from retouch import Policy, Region
from retouch.plan.region import dilate, scattered
from support import BACKENDS, fill, noise, spot, state

SPARSE = Policy("sparse", dilate=2, crossover=1.0)
PROBED = replace(SPARSE, stats="probed")
SIZE = 48


def network(norm: type[nn.Module] = nn.InstanceNorm2d, depth: int = 4) -> nn.Module:
    layers = [nn.Conv2d(3, 16, 3, padding=1)]
    for _ in range(depth):
        layers += [nn.InstanceNorm2d(16) if norm is nn.InstanceNorm2d else nn.GroupNorm(4, 16), nn.SiLU()]
        layers += [nn.Conv2d(16, 16, 3, padding=1)]
    return fill(nn.Sequential(*layers))


def shifted(x):
    """A bright square, which moves the statistics of every map."""
    mask = spot(SIZE, SIZE, 6, 8, 10)
    return torch.where(mask, x + 4, x), mask


def decibels(net, x):
    """Signal over error inside the edit, against the dense module."""
    edited, mask = shifted(x)
    _, recording = net.record(x)
    updated = net.update(recording, Region.from_mask(mask), edited)
    truth = net.module(edited)[..., mask]
    return float(10 * torch.log10(truth.var() / (updated[..., mask] - truth).square().mean()))


@pytest.mark.parametrize("norm", [nn.InstanceNorm2d, nn.GroupNorm])
def test_probes_find_statistics_that_others_miss(norm):
    module, x = network(norm), noise(1, 3, SIZE, SIZE)
    found = {
        stats: decibels(retouch.compile(module, (x,), policy=replace(SPARSE, stats=stats)), x)
        for stats in ("recorded", "refreshed", "probed")
    }
    assert found["probed"] > max(found["recorded"], found["refreshed"]) + 6, found


@pytest.mark.parametrize("backend", BACKENDS)
def test_samples_of_a_batch_have_their_own_fits(backend):
    module, x = network(), torch.cat([noise(1, 3, SIZE, SIZE), 3 * noise(1, 3, SIZE, SIZE, seed=1) + 1])
    edited, mask = shifted(x)
    net = retouch.compile(module, (x,), policy=PROBED, backend=backend)
    _, recording = net.record(x)
    both = net.update(recording, Region.from_mask(mask), edited)
    for sample in (0, 1):
        one = retouch.compile(module, (x[:1],), policy=PROBED, backend=backend)
        _, alone = one.record(x[sample : sample + 1])
        wanted = one.update(alone, Region.from_mask(mask), edited[sample : sample + 1])
        assert torch.allclose(both[sample], wanted[0], atol=1e-5)


def test_an_update_without_change_moves_nothing():
    module, x = network(), noise(1, 3, SIZE, SIZE)
    net = retouch.compile(module, (x,), policy=PROBED)
    y, recording = net.record(x)
    before = state(recording)
    again = net.update(recording, Region.from_mask(spot(SIZE, SIZE, 6, 8, 10)), x)
    assert torch.allclose(again, y, atol=1e-5)
    recording.undo()
    assert all(torch.equal(a, b) for a, b in zip(before, state(recording), strict=True))


def test_nothing_is_probed_where_no_operation_reads_the_whole_map():
    module, x = fill(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1))), noise(1, 3, 48, 48)
    region = Region.from_mask(spot(SIZE, SIZE))
    probed, plain = (retouch.compile(module, (x,), policy=policy) for policy in (PROBED, SPARSE))
    assert probed.explain(region).macs_active == plain.explain(region).macs_active


@given(
    height=st.integers(3, 40), width=st.integers(3, 40), count=st.integers(1, 40), distance=st.integers(0, 5),
    seed=st.integers(0, 1000), samples=st.integers(1, 2),
)  # fmt: skip
def test_scattered_positions_keep_their_distance(height, width, count, distance, seed, samples):
    active = (torch.rand(samples, height, width, generator=torch.Generator().manual_seed(seed)) < 0.02).numpy()
    probes = scattered(active, count, distance)
    assert probes.shape == active.shape
    assert (probes.sum((1, 2)) <= count).all()
    assert not (probes & dilate(active, distance)).any()
    free = ~dilate(active, distance)
    assert (probes.any((1, 2)) == free.any((1, 2))).all()
