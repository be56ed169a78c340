"""Dense operations that read no rows: what of them an update computes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import retouch
from retouch import Region
from retouch.ops.dense import Dense
from retouch.runtime.state.layered import Snapshot
from retouch.runtime.store import Store
from support import BACKENDS, SHARED, edit, error, fill, noise, spot


class Told(nn.Module):
    """An image, told a text, a time and both together."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.words, self.time, self.both = nn.Linear(6, 8), nn.Linear(4, 8), nn.Linear(8, 8)

    def forward(self, x, text, t):
        words, time = F.silu(self.words(text)), F.silu(self.time(t))
        x = F.silu(self.first(x) + (words.mean(1) * 2)[:, :, None, None])
        x = x + self.both(words.amax(1) + time)[:, :, None, None]
        return self.last(x * time[:, :, None, None])


class Drawn(nn.Module):
    """A text with noise that is drawn anew at every run."""

    def __init__(self):
        super().__init__()
        self.conv, self.words = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(6, 8)

    def forward(self, x, text):
        return self.conv(x) + self.words(text + torch.rand_like(text)).mean(1)[:, :, None, None]


X, TEXT, T = noise(1, 3, 16, 16), noise(1, 5, 6, seed=1), noise(1, 4, seed=2)
MASK = spot(16, 16)
REGION, EDITED = Region.from_mask(MASK), edit(X, MASK)


def told(backend="cpu"):
    return retouch.compile(fill(Told()), (X, TEXT, T), policy=SHARED, backend=backend)


@pytest.fixture
def ran(monkeypatch):
    """The names of the dense operations that run."""
    names, run = [], Dense.run
    monkeypatch.setattr(Dense, "run", lambda op, tensors: (names.append(op.out.name), run(op, tensors))[1])
    return names


def ops_of(net, *inputs):
    (chain,) = [chain for chain in net.plan.chains if {v.name for v in chain.inputs} == set(inputs)]
    return [op.out.name for op in chain.ops]


def test_chains_are_told_apart_by_their_inputs():
    net = told()
    assert [{v.name for v in chain.inputs} for chain in net.plan.chains] == [{"text"}, {"t"}, {"text", "t"}]
    dense = {op.out.name for op in net.program.ops if isinstance(op, Dense)}
    assert {name for chain in net.plan.chains for name in (op.out.name for op in chain.ops)} == dense
    for chain in net.plan.chains:
        assert len(chain.results) < len(chain.ops)


@pytest.mark.parametrize("state", ["in place", "layered"])
def test_only_what_depends_on_changed_inputs_runs(state, ran):
    net = told()
    recording = net.record(X, TEXT, T)[1]
    snapshot = Snapshot.of(net.record(X, TEXT, T)[1], Store())

    def update(text, t):
        ran.clear()
        return net.update(recording if state == "in place" else snapshot.recording(), REGION, EDITED, text, t)

    update(TEXT.clone(), T.clone())
    assert ran == []
    update(TEXT + 1, T)
    assert ran == ops_of(net, "text") + ops_of(net, "text", "t")
    update(TEXT + 1, T + 1)
    assert set(ran) <= {*ops_of(net, "t"), *ops_of(net, "text", "t")}


def test_what_is_made_of_a_text_is_computed_once_for_many_updates(ran):
    net = told()
    snapshots = [Snapshot.of(net.record(X, TEXT, T + step)[1], Store()) for step in range(3)]
    ran.clear()
    for step, snapshot in enumerate(snapshots):
        net.update(snapshot.recording(), REGION, EDITED, TEXT - 1, T + step)
    assert [name for name in ran if name in ops_of(net, "text")] == ops_of(net, "text")
    assert len(ran) == len(ops_of(net, "text")) + 3 * len(ops_of(net, "text", "t"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_remembered_results_are_those_of_the_model(backend):
    net, whole = told(backend), Region.from_mask(torch.ones(16, 16, dtype=torch.bool))
    recording = net.record(X, TEXT, T)[1]
    for text, t in ((TEXT + 1, T), (TEXT, T), (TEXT + 1, T + 1), (TEXT + 2, T + 1), (TEXT + 1, T)):
        found = net.update(recording, whole, X, text, t)
        assert torch.equal(found, net.record(X, text, t)[0])
        assert error(found, net.module(X, text, t)) < 1e-5


def test_changed_weights_are_read():
    net = told()
    before = net.record(X, TEXT, T)[0]
    with torch.no_grad():
        net.words.weight.mul_(2)
    after = net.record(X, TEXT, T)[0]
    assert not torch.equal(before, after)
    assert error(after, net.module(X, TEXT, T)) < 1e-5


def test_what_draws_random_numbers_is_not_remembered(ran):
    net = retouch.compile(fill(Drawn()), (X, TEXT), policy=SHARED, backend="cpu")
    assert net.plan.chains == ()
    first = net.record(X, TEXT)[0]
    assert not torch.equal(first, net.record(X, TEXT)[0])
