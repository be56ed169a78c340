"""Garbage collection waits for the end of edits."""

import gc
from threading import Thread

import pytest

from editing.live import session
from pipelines import painted
from retouch.editing.collection import Waiting


def test_it_waits_for_the_last_and_comes_back_after_errors():
    waiting = Waiting()
    later = waiting.held()
    with waiting.held():
        assert not gc.isenabled()
        with pytest.raises(ZeroDivisionError), waiting.held():
            raise ZeroDivisionError
        assert not gc.isenabled()
        other = Thread(target=later.__enter__)
        other.start()
        other.join()
    assert not gc.isenabled()  # what the other thread began is not done
    later.__exit__(None, None, None)
    assert gc.isenabled()


def test_where_it_was_off_it_stays_off():
    gc.disable()
    try:
        with Waiting().held():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_an_edit_is_made_without():
    seen, edited = [], session()
    edited.edit(painted(edited.pixels), progress=lambda *_: seen.append(gc.isenabled()))
    assert seen
    assert not any(seen)
    assert gc.isenabled()
