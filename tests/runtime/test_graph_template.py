"""Patterns: regions of about the same size share one graph, and get what they get on their own."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from triton.runtime.interpreter import InterpretedFunction

import retouch
from kernels import interpreter
from kernels.interpreter import CPU, Graphs
from retouch import Region, kernels
from retouch.kernels.tensors import PaddedTables
from retouch.runtime.graph_template import LEAST, roomy
from retouch.runtime.state.layered import Snapshot
from retouch.runtime.state.workspace import TEMPLATES
from retouch.runtime.store import Store
from support import PROBED, SHARED, edit, error, fill, noise, same, spot

interpreter.correct()
pytestmark = pytest.mark.filterwarnings("ignore:(divide by zero|invalid value|overflow):RuntimeWarning")

SIDE = 16


class Whole(nn.Module):
    """Every kind of kernel, and a condition that is computed on the host."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.GroupNorm(4, 8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.down = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.time = nn.Linear(8, 16)
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.shuffled = nn.Conv2d(16, 32, 1)
        self.last = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x, time):
        h = self.depthwise(F.silu(self.norm(self.first(x))))
        low = self.down(h) + self.time(time)[:, :, None, None]
        tokens = low.flatten(2).transpose(1, 2)
        q, k, v = (f(tokens)[:, None] for f in (self.query, self.key, self.value))
        low = low + F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).reshape(low.shape)
        fine = F.pixel_shuffle(self.shuffled(low), 2)
        smooth = F.interpolate(F.max_pool2d(h, 2), scale_factor=2, mode="bilinear")
        return self.last(torch.cat([fine, smooth], 1))


@pytest.fixture
def graphs(monkeypatch):
    """A backend with graphs in the place of Triton's."""
    backend = Graphs()
    monkeypatch.setitem(kernels.registry._made, ("triton", CPU), backend)
    return backend


def states(net, snapshot, regions, images, *others):
    """Results of updates, each from the snapshot, and the layers that they add."""
    for region, x in zip(regions, images, strict=True):
        for rows in net.workspace.buffers.values():
            rows.fill_(float("nan"))
        restored = snapshot.recording()
        yield net.update(restored, region, x, *others).clone()
        layer = restored.snapshot.layers[-1]
        yield from (layer.rows(value).clone() for value in layer.tables)
        yield from (layer.state(slot).clone() for slot in layer.form.states)


@given(st.integers(1, 10**6))
def test_room_is_a_little_more_than_needed(count):
    room = roomy(count)
    assert room >= max(LEAST, count * 1.25)
    assert room <= max(LEAST, count * 1.6)
    assert roomy(room) > room
    assert len({roomy(n) for n in range(count, count + count // 8)}) <= 2


def test_regions_of_a_size_share_a_graph(graphs, monkeypatch):
    module, x, time = fill(Whole()), noise(2, 3, SIDE, SIDE), noise(2, 8, seed=4)
    masks = [square(2, 3, 4, 4), square(9, 6, 4, 4), square(1, 10, 5, 3)]
    regions, images = [Region.from_mask(m) for m in masks], [edit(x, m, i) for i, m in enumerate(masks)]

    def results():
        net = retouch.compile(module, (x, time), policy=PROBED, backend="triton")
        return net, list(states(net, Snapshot.of(net.record(x, time)[1], Store()), regions, images, time))

    monkeypatch.setattr(Graphs, "graphs", False)
    _, wanted = results()
    monkeypatch.setattr(Graphs, "graphs", True)
    net, found = results()
    assert same(found, wanted)
    (pattern,) = net.workspace.templates
    assert len(graphs.captured) == len(pattern.segments) == graphs.replayed // 2 > 0
    assert sum(graphs.captured) > 10


def test_a_region_of_another_size_gets_a_graph_of_its_own(graphs):
    module, x = fill(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))), noise(1, 3, 64, 64)
    net = retouch.compile(module, (x,), policy=SHARED, backend="triton")
    net.record(x)
    small, large = (Region.from_mask(spot(64, 64, 9, 9, size)) for size in (2, 30))
    bindings = [net.workspace.binding(net.schedules.of(r, frozenset()).schedule) for r in (small, large, small)]
    assert bindings[1].executor is not bindings[2].executor
    for size in range(1, 40, 4):
        net.workspace.binding(net.schedules.of(Region.from_mask(spot(64, 64, 5, 5, size)), frozenset()).schedule)
    assert 3 < len(net.workspace.templates) <= TEMPLATES


def small(policy=SHARED):
    """A network, an image, regions of two edits, and what an update gives on its own."""
    module = fill(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1)))
    x, masks = noise(1, 3, SIDE, SIDE), [spot(SIDE, SIDE), spot(SIDE, SIDE, 9, 8)]
    net = retouch.compile(module, (x,), policy=policy, backend="triton")
    return net, x, [Region.from_mask(m) for m in masks], [edit(x, m) for m in masks]


@pytest.mark.parametrize("runs", [0, 1, 2], ids=["eager", "capture", "replay"])
def test_a_run_that_fails_leaves_the_pattern_as_it_was(runs, graphs, monkeypatch):
    net, x, (region, _), (edited, _) = small()
    snapshot = Snapshot.of(net.record(x)[1], Store())
    wanted = net.update(net.record(x)[1], region, edited)
    for _ in range(runs):
        net.update(snapshot.recording(), region, edited)
    (segment,) = net.workspace.binding(net.schedules.of(region, frozenset()).schedule).executor.segments
    real = InterpretedFunction.run

    def interrupted(self, *args, **options):
        if self.fn.__name__ == "gemm_kernel":
            raise KeyboardInterrupt
        return real(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(InterpretedFunction, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            net.update(snapshot.recording(), region, edited)
    assert segment._runs == runs
    for _ in range(3):
        assert torch.equal(net.update(snapshot.recording(), region, edited), wanted)
    assert len(graphs.captured) == (2 if runs == 1 else 1)


def test_tables_whose_upload_was_interrupted_are_uploaded_again(graphs, monkeypatch):
    net, x, regions, images = small()
    snapshot = Snapshot.of(net.record(x)[1], Store())
    wanted = net.update(snapshot.recording(), regions[0], images[0])
    real = PaddedTables.fill

    def fill(self, *args):
        real(self, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PaddedTables, "fill", fill)
        with pytest.raises(KeyboardInterrupt):
            net.update(snapshot.recording(), regions[1], images[1])
    assert torch.equal(net.update(snapshot.recording(), regions[0], images[0]), wanted)


def test_patterns_of_an_outgrown_arena_end(graphs):
    net, *_ = small()
    binding = net.workspace.binding
    schedules = [
        net.schedules.of(Region.from_mask(spot(SIDE, SIDE, 1, 1, size)), frozenset()).schedule for size in (1, 12)
    ]
    first = binding(schedules[0]).executor
    assert binding(schedules[0]).executor is first
    grown = binding(schedules[1]).executor
    assert net.workspace.templates == [grown]
    assert binding(schedules[0]).executor is not first


def test_new_weights_end_the_graphs(graphs):
    module, x = fill(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 1))), noise(1, 3, SIDE, SIDE)
    net = retouch.compile(module, (x,), policy=SHARED, backend="triton")
    m = spot(SIDE, SIDE)
    region, edited = Region.from_mask(m), edit(x, m)
    for _ in range(2):
        snapshot = Snapshot.of(net.record(x)[1], Store())
        for _ in range(3):
            result = net.update(snapshot.recording(), region, edited)
        with torch.no_grad():
            inside = net.active_mask(region)[:, None].expand_as(result)
            assert error(result[inside], module(edited)[inside]) < 1e-5
            module[0].weight.mul_(2)
        net.weights.refresh()
    assert len(graphs.captured) == 2


def square(top, left, height, width):
    found = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    found[top : top + height, left : left + width] = True
    return found
