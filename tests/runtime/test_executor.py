"""How the calls of a schedule run: in as few launches as there are stretches between those of the host."""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import retouch
from retouch import Region
from retouch.kernels.cpu.backend import Cpu
from retouch.runtime.executor import Direct
from retouch.runtime.state.layered import Snapshot
from retouch.runtime.store import Store
from support import BACKENDS, PROBED, SHARED, edit, fill, noise, spot

X, T = noise(1, 3, 16, 16), noise(1, 6, seed=1)
MASK = spot(16, 16)
REGION, EDITED = Region.from_mask(MASK), edit(X, MASK)


class Timed(nn.Module):
    """Convolutions, a norm and a dense value that every row reads."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.norm, self.time = nn.GroupNorm(2, 8), nn.Linear(6, 8)

    def forward(self, x, t):
        return self.last(F.silu(self.norm(self.first(x)) + self.time(t)[:, :, None, None]))


def compiled(backend="cpu", policy=SHARED):
    return retouch.compile(fill(Timed()), (X, T), policy=policy, backend=backend)


@pytest.fixture
def launches(monkeypatch):
    """How many kernel calls each native launch makes, when it does."""
    made, graph = [], Cpu.graph

    def counted(self, calls):
        run = graph(self, calls)
        return lambda: (made.append(len(calls)), run())[1]

    monkeypatch.setattr(Cpu, "graph", counted)
    return made


@pytest.mark.parametrize("t", [T, T + 1], ids=["same time", "another time"])
def test_the_kernels_of_an_update_are_one_launch(launches, t):
    net = compiled()
    recording = net.record(X, T)[1]
    snapshot = Snapshot.of(net.record(X, T)[1], Store())
    for each in (recording, recording, snapshot.recording(), snapshot.recording()):
        launches.clear()
        net.update(each, REGION, EDITED, t)
        (planned,) = [planned for planned in net.schedules._planned.values() if planned.schedule.parts][-1:]
        assert sum(launches) == sum(not call.host for call in planned.schedule.steps)
        assert len(launches) <= 2  # statistics may be put back after rows are


@pytest.mark.parametrize("policy", [SHARED, PROBED], ids=lambda policy: policy.name)
@pytest.mark.parametrize("backend", BACKENDS)
def test_recordings_take_turns_with_one_schedule(backend, policy):
    net, other = compiled(backend, policy), compiled(backend, policy)
    inputs = [(noise(1, 3, 16, 16, seed=i), noise(1, 6, seed=10 + i)) for i in range(2)]
    recordings = [net.record(*each)[1] for each in inputs]
    snapshots = [Snapshot.of(net.record(*each)[1], Store()) for each in inputs]
    for turn in range(2):
        for (x, t), recording, snapshot in zip(inputs, recordings, snapshots, strict=True):
            after, time = edit(x, MASK, seed=turn), t + turn % 2
            other.forget()
            expected = other.update(other.record(x, t)[1], REGION, after, time)
            assert torch.equal(net.update(recording, REGION, after, time), expected)
            recording.undo()
            assert torch.equal(net.update(snapshot.recording(), REGION, after, time), expected)


def test_a_schedule_keeps_no_recording():
    net = compiled()
    recording = net.record(X, T)[1]
    net.update(recording, REGION, EDITED, T + 1)
    rows = [weakref.ref(buffer.untyped_storage()) for buffer in recording.buffers.values()]
    gone = weakref.ref(recording)
    for part in next(reversed(net.schedules._planned.values())).schedule.parts:
        for holder in getattr(part, "_holders", ()):
            assert not getattr(holder, "rows", 0)
    del recording
    gc.collect()
    assert gone() is None
    assert all(row() is None for row in rows)


@pytest.mark.parametrize("stays", [False, True])
def test_an_error_inside_a_launch_is_the_kernels(stays):
    net = compiled()
    recording = net.record(X, T)[1]
    schedule = net.schedules.built(net.active(REGION), set())
    value = next(iter(schedule.saves))
    recording.begin(schedule)
    executor = Direct(stays)
    kept = recording.buffers[value]
    recording.put_rows(value, kept[:3])
    with pytest.raises(ValueError, match=r"rows|entries"):
        executor.run(schedule, recording)
    recording.abort()
    assert torch.equal(net.update(recording, REGION, EDITED, T), net.update(net.record(X, T)[1], REGION, EDITED, T))
