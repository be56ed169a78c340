"""Memory that runs out in the middle of an update: nothing is lost, and the next update works."""

from functools import cache
from unittest.mock import patch

import numpy as np
import pytest
import torch

import retouch
from networks import case, edits, record, update
from pipelines import painted, picture, pipeline
from retouch.incremental import Incremental
from retouch.kernels.reference import Reference
from support import EXACT, PROBED, SHARED, same, state

CPU = torch.device("cpu")
FULL = retouch.Policy("full", dilate=0, crossover=1e-9)
"""Updates compute everything, into fresh buffers."""


class Scarce(Reference):
    """Kernels that run out of memory, once or for good, from a call on whose number is set."""

    def __init__(self):
        super().__init__(CPU)
        self.restore()

    def restore(self):
        """There is enough memory again; calls are counted from here."""
        self.calls, self.first, self.lasting = 0, None, False

    def lack(self, first, lasting=False):
        self.calls, self.first, self.lasting = 0, first, lasting

    def kernel(self, name):
        function = super().kernel(name)

        def run(*args):
            number, self.calls = self.calls, self.calls + 1
            if number == self.first or (self.lasting and number > self.first):
                raise torch.OutOfMemoryError("out of memory")
            return function(*args)

        return run


@cache
def scarce(policy):
    """A network with attention and norms; its kernels are counted."""
    made = case("ddpm-256")
    with patch("retouch.kernels.backend", lambda *_: Scarce()):
        return retouch.compile(made.module, made.args, made.kwargs, policy=policy)


def moments(count):
    """Numbers of some of that many calls, the first and the last among them."""
    return sorted({round(x) for x in np.linspace(0, count - 1, 5)})


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "while it is taken back"])
@pytest.mark.parametrize("policy", [SHARED, PROBED, EXACT, FULL], ids=lambda p: p.name)
def test_a_recording_is_left_as_it_was(policy, lasting):
    net, made = scarce(policy), case("ddpm-256")
    (_, recording), (_, twin) = record(net, made), record(net, made)
    (mask, first), (other, second) = edits(made, 2, seed=4)
    start = state(recording)
    for each in (recording, twin):
        update(net, each, mask, first)
    before, memory = state(recording), recording.nbytes
    net.backend.restore()
    expected = update(net, twin, other, second)
    for number in moments(net.backend.calls):
        net.backend.lack(number, lasting)
        with pytest.raises(torch.OutOfMemoryError):
            update(net, recording, other, second)
        net.backend.restore()
        recording.abort()
        assert same(before, state(recording))
        assert (recording.nbytes, len(recording.deltas)) == (memory, 1)
    net.backend.lack(number, lasting)
    with pytest.raises(torch.OutOfMemoryError):
        update(net, recording, other, second)
    net.backend.restore()
    assert torch.equal(update(net, recording, other, second), expected)
    assert same(state(twin), state(recording))
    recording.undo()
    recording.undo()
    assert same(start, state(recording))


@pytest.mark.parametrize("step", ["undo", "redo"])
def test_undo_and_redo_first_take_back_what_failed(step):
    net, made = scarce(SHARED), case("ddpm-256")
    _, recording = record(net, made)
    (mask, first), (other, second) = edits(made, 2, seed=4)
    held = [state(recording)]
    update(net, recording, mask, first)
    held.append(state(recording))
    if step == "redo":
        recording.undo()
        held.reverse()
    net.backend.restore()
    update(net, record(net, made)[1], other, second)
    net.backend.lack(net.backend.calls // 2, lasting=True)
    with pytest.raises(torch.OutOfMemoryError):
        update(net, recording, other, second)
    net.backend.restore()
    getattr(recording, step)()
    assert same(held[0], state(recording))


@pytest.mark.parametrize("idle", [False, True], ids=["an edit", "no edit"])
def test_no_memory_for_the_result_leaves_the_recording_as_it_was(monkeypatch, idle):
    net, made = scarce(SHARED), case("ddpm-256")
    _, recording = record(net, made)
    ((mask, edited),) = edits(made, 1, seed=4)
    before = state(recording)

    def fail(*_):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Incremental, "_result", fail)
    with pytest.raises(torch.OutOfMemoryError):
        update(net, recording, mask & (not idle), edited)
    assert same(before, state(recording))
    with pytest.raises(retouch.UndoError):
        recording.undo()


@pytest.mark.parametrize("saved", [False, True], ids=["in memory", "in a folder"])
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_session_stays_at_its_version(saved, tmp_path):
    kernels = Scarce()
    with patch("retouch.kernels.backend", lambda *_: kernels):
        editor = retouch.Editor(pipeline("ddpm"), name="ddpm")
        session = editor.open(picture("ddpm"), steps=4, strength=0.7, folder=tmp_path / "session" if saved else None)
        twin = session.branch()
        drawn = painted(session.pixels)
        kernels.restore()
        expected = twin.edit(drawn).image
        count = kernels.calls
        version, held = session.version, session.store.in_memory
        for number in moments(count):
            kernels.lack(number)
            with pytest.raises(torch.OutOfMemoryError):
                session.edit(drawn)
            assert (session.version, len(session.versions), session.store.in_memory) == (version, 1, held)
        kernels.restore()
        assert np.array_equal(session.edit(drawn).image, expected)
        assert len(session.versions) == 2
        session.close()
