"""Edits together: their calls of a network meet, and what becomes of one is no matter of the others."""

import threading
from threading import Event
from unittest.mock import Mock, patch

import pytest

from retouch.editing import meeting
from retouch.editing.calls import Calls, Cancelled, Request
from retouch.editing.calls import _meeting as here
from retouch.editing.meeting import Meeting, side_by_side

WAIT = 60
NET, OTHER = Mock(), Mock()


@pytest.fixture(autouse=True)
def rounds():
    """The arguments of every round; each call gives its own argument, doubled, and 13 fails."""
    found = []

    def update_many(requests):
        found.append([each.inputs[0][0] for each in requests])
        if 13 in found[-1]:
            raise MemoryError("13")
        return [2 * x for x in found[-1]]

    with patch.object(Calls, "update_many", side_effect=update_many), patch.object(meeting, "PATIENCE", WAIT):
        yield found


def call(x, net=NET, go_on=lambda: None):
    return here.get().call(Request(Mock(), "step", net, None, ((x,), {}), go_on))


def chain(start, count=3, net=NET):
    def edit():
        found = start
        for _ in range(count):
            found = call(found, net)
        return found

    return edit


def test_each_gets_its_own_results(rounds):
    assert side_by_side([chain(k) for k in range(4)]) == [0, 8, 16, 24]
    assert [sorted(each) for each in rounds] == [[0, 1, 2, 3], [0, 2, 4, 6], [0, 4, 8, 12]]


def test_who_makes_fewer_calls_ends_before_and_who_begins_later_is_computed_with_the_others(rounds):
    assert side_by_side([chain(1, 1), chain(2, 3), chain(3, 2)]) == [2, 16, 12]
    assert [sorted(each) for each in rounds] == [[1, 2, 3], [4, 6], [8]]


def test_calls_of_one_network_are_computed_together(rounds):
    assert side_by_side([chain(1), chain(2, 3, OTHER), chain(3)]) == [8, 16, 24]
    assert sorted(map(sorted, rounds)) == [[1, 3], [2], [2, 6], [4], [4, 12], [8]]


def test_networks_are_computed_in_this_thread_and_let_go_of_their_memory():
    found, update_many = [], Calls.update_many

    def seen(requests):
        found.append(threading.current_thread())
        return update_many(requests)

    net = Mock()
    with patch.object(Calls, "update_many", side_effect=seen):
        side_by_side([chain(1, net=net)] * 2)
    assert set(found) == {threading.current_thread()}
    net.release.assert_called_once_with()


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_what_one_raises_ends_all_that_are_side_by_side(broken):
    def fails():
        call(1)
        raise KeyError("broken")

    before = threading.active_count()
    with pytest.raises(KeyError, match="broken"):
        side_by_side([fails if k == broken else chain(k) for k in range(3)])
    assert threading.active_count() == before


def test_a_network_that_fails_ends_all_that_are_side_by_side():
    with pytest.raises(MemoryError, match="13"):
        side_by_side([chain(k) for k in (1, 13, 2)])


def served(edits):
    """What becomes of edits that have nothing to do with each other."""
    place, found = Meeting(), {}

    def attend(number):
        try:
            found[number] = edits[number]()
        except BaseException as error:
            found[number] = error

    for number in range(len(edits)):
        place.begin(lambda number=number: attend(number))
    place.serve()
    return found


def test_a_call_that_fails_fails_for_one_alone(rounds):
    found = served([chain(1), chain(13), chain(2)])
    assert (found[0], found[2]) == (8, 16)
    assert isinstance(found[1], MemoryError)
    assert [13] in rounds
    assert sorted(rounds[-1]) == [4, 8]


def test_what_an_edit_raises_is_its_own():
    def fails():
        call(1)
        raise KeyError("broken")

    found = served([chain(1), fails, chain(2)])
    assert (found[0], found[2]) == (8, 16)
    assert isinstance(found[1], KeyError)


def test_one_that_is_to_stop_is_not_computed_any_more(rounds):
    stopping = []

    def go_on():
        if stopping:
            raise Cancelled

    def stops():
        call(5, go_on=go_on)
        stopping.append(True)
        return call(7, go_on=go_on)

    found = served([chain(1), stops])
    assert found[0] == 8
    assert isinstance(found[1], Cancelled)
    assert not any(7 in each for each in rounds)


def test_nobody_waits_long_for_one_that_is_late_or_says_that_no_calls_come(rounds, monkeypatch):
    monkeypatch.setattr(meeting, "PATIENCE", 0.05)
    done = Event()

    def late():
        assert done.wait(WAIT)
        return call(9)

    def first():
        found = chain(1)()
        done.set()
        return found

    assert served([first, late]) == {0: 8, 1: 18}
    assert rounds == [[1], [2], [4], [9]]


def test_nobody_waits_for_one_that_has_left(rounds):
    done = Event()

    def leaves():
        found = call(5)
        here.get().leave()
        assert done.wait(WAIT)
        return found

    def others():
        found = chain(1)()
        done.set()
        return found

    assert served([others, leaves]) == {0: 8, 1: 10}
    assert [sorted(each) for each in rounds] == [[1, 5], [2], [4]]


def test_whoever_serves_may_begin_further_edits(rounds):
    place, found, waiting = Meeting(), [], [chain(3, 1), chain(5, 1)]
    place.begin(lambda: found.append(chain(1)()))

    def admit():
        if rounds and waiting:
            edit = waiting.pop()
            place.begin(lambda: found.append(edit()))

    place.serve(admit)
    assert sorted(found) == [6, 8, 10]
    assert [sorted(each) for each in rounds] == [[1], [2, 5], [3, 4]]


def test_who_serves_is_interrupted():
    place, found = Meeting(), []

    def edit():
        try:
            call(1)
        except BaseException as error:
            found.append(error)

    def admit():
        raise KeyboardInterrupt

    place.begin(edit)
    with pytest.raises(KeyboardInterrupt):
        place.serve(admit)
    for each in threading.enumerate():
        if each.name == "retouch edit":
            each.join(WAIT)
    assert [type(error) for error in found] == [KeyboardInterrupt]
