"""Edits side by side: their calls meet; when one ends early, all do."""

import threading
from unittest.mock import patch

import pytest

from retouch.editing.calls import Calls
from retouch.editing.meeting import side_by_side


@pytest.fixture(autouse=True)
def computed():
    """Every call gives its own argument, doubled."""

    def update_many(calls, name, net, region, inputs):
        return [2 * args[0] for args, _ in inputs]

    with patch.object(Calls, "update_many", side_effect=update_many) as mock:
        yield mock


def chain(start):
    def edit(seat):
        found = start
        for step in range(3):
            found = seat.update(f"step {step}", None, None, found)
        return found

    return edit


def test_each_gets_its_own_results(computed):
    assert side_by_side([None] * 4, [chain(k) for k in range(4)]) == [0, 8, 16, 24]
    assert [call.args[1] for call in computed.call_args_list] == ["step 0", "step 1", "step 2"]


def test_networks_are_computed_in_this_thread(computed):
    here = []
    computed.side_effect = lambda *_: here.append(threading.current_thread()) or [1, 1]
    side_by_side([None] * 2, [chain(0)] * 2)
    assert set(here) == {threading.current_thread()}


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_what_one_raises_ends_all(broken):
    def fails(seat):
        seat.update("step 0", None, None, 1)
        raise KeyError("broken")

    edits = [fails if k == broken else chain(k) for k in range(3)]
    before = threading.active_count()
    with pytest.raises(KeyError, match="broken"):
        side_by_side([None] * 3, edits)
    assert threading.active_count() == before


def test_a_network_that_fails_ends_all(computed):
    computed.side_effect = MemoryError("full")
    with pytest.raises(MemoryError, match="full"):
        side_by_side([None] * 3, [chain(k) for k in range(3)])


@pytest.mark.parametrize("calls", [["another"], ["step 0"], [], [f"step {k}" for k in range(4)]], ids=str)
def test_edits_that_differ_cannot_meet(calls):
    def other(seat):
        for name in calls:
            seat.update(name, None, None, 1)

    with pytest.raises(AssertionError, match="cannot meet"):
        side_by_side([None] * 2, [chain(0), other])
