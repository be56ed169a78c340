"""Recordings: undo, redo, size."""

import pytest
import torch
from torch import nn

import retouch
from retouch import Region, UndoError
from support import SHARED, edit, fill, noise, same, spot, state

X = noise(1, 3, 12, 12)


@pytest.fixture
def made(backend):
    module = fill(nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 4, 3, padding=1)
    ))  # fmt: skip
    net = retouch.compile(module, (X,), policy=SHARED, backend=backend)
    return net, net.record(X)[1]


def _edit(net, recording, i):
    mask = spot(12, 12, i, 2 * i, 2)
    return net.update(recording, Region.from_mask(mask), edit(X, mask, seed=i))


def test_nothing_to_undo_or_redo(made):
    net, recording = made
    with pytest.raises(UndoError, match="nothing to undo"):
        recording.undo()
    with pytest.raises(UndoError, match="nothing to redo"):
        recording.redo()
    _edit(net, recording, 1)
    with pytest.raises(UndoError, match="nothing to redo"):
        recording.redo()
    recording.undo()
    with pytest.raises(UndoError, match="nothing to undo"):
        recording.undo()


def test_a_new_update_forgets_what_was_undone(made):
    net, recording = made
    _edit(net, recording, 1)
    recording.undo()
    _edit(net, recording, 2)
    with pytest.raises(UndoError, match="a new one came after it"):
        recording.redo()


def test_an_update_that_fails_before_it_begins_forgets_nothing(made):
    net, recording = made
    _edit(net, recording, 1)
    after = state(recording)
    recording.undo()
    with pytest.raises(retouch.RegionError):
        net.update(recording, Region.from_mask(spot(5, 5)), X)
    recording.redo()
    assert same(after, state(recording))


def test_an_empty_update_can_be_undone(made):
    net, recording = made
    before = state(recording)
    net.update(recording, Region.from_mask(torch.zeros(12, 12, dtype=torch.bool)), X)
    recording.undo()
    recording.redo()
    assert same(before, state(recording))


def test_partial_and_whole_updates_mix(made):
    net, recording = made
    states = [state(recording)]
    full = torch.ones(12, 12, dtype=torch.bool)
    for i in range(5):
        if i % 2:
            net.update(recording, Region.from_mask(full), edit(X, full, seed=i))
        else:
            _edit(net, recording, i)
        states.append(state(recording))
    for _ in range(2):
        for expected in states[-2::-1]:
            recording.undo()
            assert same(expected, state(recording))
        for expected in states[1:]:
            recording.redo()
            assert same(expected, state(recording))


def test_updating_after_undoing_a_whole_update(made):
    """Handles of the buffers that came back are the ones in use."""
    net, recording = made
    full = torch.ones(12, 12, dtype=torch.bool)
    expected = _edit(net, recording, 1)
    recording.undo()
    net.update(recording, Region.from_mask(full), edit(X, full))
    recording.undo()
    assert torch.equal(_edit(net, recording, 1), expected)


def test_size_counts_what_updates_save(made):
    net, recording = made
    sizes = [recording.nbytes]
    assert sizes[0] >= net.plan.kept_bytes
    for i in (1, 2):
        _edit(net, recording, i)
        sizes.append(recording.nbytes)
    assert sizes[0] < sizes[1] < sizes[2]
    recording.undo()
    assert recording.nbytes == sizes[2]
    assert "1 updates" in repr(recording)


def test_recordings_are_independent(made):
    net, recording = made
    _, other = net.record(X)
    before = state(other)
    _edit(net, recording, 1)
    assert same(before, state(other))
