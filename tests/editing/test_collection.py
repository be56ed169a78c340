"""Garbage collection waits for the end of edits."""

import gc
import weakref
from threading import Event, Thread

import pytest

from editing.live import session
from pipelines import painted
from retouch.editing import collection
from retouch.editing.collection import COLLECTION, MOST, Waiting


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


class Cycle:
    """Garbage that only a collection finds."""

    def __init__(self):
        self.me = self


def test_what_an_edit_leaves_is_found_later():
    """Not when it ends, which would look at all that it made, but when a collection is due."""
    waiting = Waiting()
    with waiting.held():
        left = weakref.ref(Cycle())
    gc.collect(1)
    assert left() is not None
    for _ in range(collection.OFTEN - 1):
        assert not waiting.is_due
        with waiting.held():
            pass
    assert waiting.is_due
    waiting.collect()
    assert left() is None
    assert not waiting.is_due


def test_after_many_edits_in_a_row_it_waits_no_longer():
    waiting, left = Waiting(), weakref.ref(Cycle())
    for _ in range(MOST):
        with waiting.held():
            pass
    assert left() is None
    assert not waiting.is_due


def test_what_somebody_keeps_from_collection_stays_so():
    gc.freeze()
    kept = gc.get_freeze_count()
    try:
        with Waiting().held():
            pass
        assert gc.get_freeze_count() >= kept - 100  # some die by their count
    finally:
        gc.unfreeze()


def test_a_worker_without_jobs_collects(monkeypatch):
    monkeypatch.setattr("retouch.editing.worker.IDLE", 0.05)
    edited, seen = session(), Event()
    monkeypatch.setattr(COLLECTION, "_passed", collection.OFTEN)
    monkeypatch.setattr(COLLECTION, "collect", seen.set)
    edited.submit(painted(edited.pixels), refine=None).result()
    assert seen.wait(60)
