"""Servers whose sessions are in a store of objects: what people see of it, also where it fails."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import stores
from pipelines import painted, picture
from retouch.editing.bucket import Bucket
from retouch.server.limits import Limits
from studios import OTHER, asking, created, edited, editor, idle, keyed, page, pixels, png, settings, studio

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture
def store():
    with stores.emptied() as found:
        yield found


@pytest.fixture
def server(store, tmp_path, monkeypatch):
    """Makes servers of one store."""
    monkeypatch.setattr(Bucket, "beat", 0.2)
    return lambda **limits: studio(Bucket(f"{stores.URL}/sessions", tmp_path / "scratch"), Limits(**limits))


def fails(number, *what, where=""):
    """A hook by which operations fail."""

    def hook(does, path):
        if does in what and where in path:
            raise OSError(number, os.strerror(number))

    return staticmethod(hook)


def test_a_session_is_edited_listed_exported_and_deleted(server, tmp_path):
    with asking(server()) as client:
        id_ = created(client)
        edited(client, id_, 0)
        idle(client, id_)
        kept = sum(len(stores.Faulty.store[name].getvalue()) for name in stores.names(id_))
    assert not list((tmp_path / "scratch").rglob(id_))
    with asking(server()) as client:
        (line,) = client.get("/api/sessions").json()
        assert (line["id"], line["versions"], line["head"]) == (id_, 2, 1)
        assert client.get("/api/sessions", headers=OTHER).json() == []
        session = editor().open(picture("ddpm"), steps=2, strength=1.0)
        session.edit(painted(session.pixels))
        assert kept < session.recording_bytes / 10
        assert np.array_equal(pixels(client, id_, 1), session.pixels)  # read without opening it
        archive = client.get(f"/api/sessions/{id_}/archive").content
        assert client.delete(f"/api/sessions/{id_}").status_code == 204
        assert client.get("/api/sessions").json() == []
        assert client.get(f"/api/sessions/{id_}").status_code == 404
        assert not stores.names("/files/")
        sent = client.post("/api/archives", files={"archive": ("a.zip", archive)}).json()["id"]
        assert edited(client, sent, 1, left=2, top=20).status_code == 202
        assert idle(client, sent)["head"] == 2


def test_a_session_that_was_saved_whole_comes_in_and_goes_on(server, tmp_path):
    with asking(studio(tmp_path / "home")) as client:
        id_ = created(client)
        edited(client, id_, 0)
        idle(client, id_)
        archive = client.get(f"/api/sessions/{id_}/archive").content
    with asking(server()) as client:
        sent = client.post("/api/archives", files={"archive": ("a.zip", archive)}).json()["id"]
    with asking(server()) as client:
        assert edited(client, sent, 1, left=2, top=20).status_code == 202
        assert idle(client, sent)["head"] == 2


def test_a_canvas_goes_to_another_server(server):
    size = (40, 56)
    with asking(server()) as client:
        data = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        reply = client.post(
            "/api/sessions", data=settings(canvas=True, steps=2, strength=1.0), files={"picture": ("x.png", png(data))}
        )
        id_ = reply.json()["id"]
        idle(client, id_)
        edited(client, id_, 0)
        assert idle(client, id_)["head"] == 1
        before = pixels(client, id_, 1)
    with asking(server()) as client:
        assert np.array_equal(pixels(client, id_, 1), before)
        assert edited(client, id_, 1, left=2, top=20).status_code == 202
        assert idle(client, id_)["head"] == 2


def test_an_edit_of_which_the_store_gave_no_answer_counts_once_when_it_is_sent_again(server, store):
    """As when a server is killed after the edit was sealed, and before anybody was told."""
    with asking(server()) as first, asking(server()) as second:
        id_ = created(first)
        with page(first, id_) as watching:
            store.after = fails(errno.EIO, "create", where="/log/")
            store.before = fails(errno.EIO, "read", where="/log/")
            job = keyed(first, id_, "k").json()["job"]
            assert watching.done(job)["state"] == "failed"
            store.before = store.after = None
        first.app.app.app.state.studio.pool.holder.home._held.clear()  # it says nothing any more
        other = second.app.app.app.state.studio.pool.holder
        other.lives = lambda holder: False
        assert keyed(second, id_, "k").status_code == 202
        assert len(idle(second, id_)["tree"]) == 2
        assert keyed(second, id_, "other", base=1).status_code == 202
        assert len(idle(second, id_)["tree"]) == 3


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ETIMEDOUT], ids=["full", "gone"])
def test_an_edit_fails_where_the_store_does_and_the_session_goes_on_afterwards(server, store, number):
    with asking(server()) as client:
        id_ = created(client)
        with page(client, id_) as watching:
            store.before = fails(number, "write", "create", where=id_)
            told = watching.done(edited(client, id_, 0).json()["job"])
            assert told["state"] == "failed"
            assert os.strerror(number) in told["error"]["detail"]
            store.before = None
            assert idle(client, id_)["head"] == 0
            assert watching.done(edited(client, id_, 0).json()["job"])["state"] == "done"
    with asking(server()) as client:
        assert len(idle(client, id_)["tree"]) == 2


@pytest.mark.parametrize(("number", "status"), [(errno.ENOSPC, 507), (errno.ETIMEDOUT, 503)], ids=["full", "gone"])
def test_requests_are_told_that_the_store_does_not_answer(server, store, number, status):
    made = server()
    with asking(made) as client:
        id_ = created(client)
        made.pool.lost(made.pool.find("anna", id_))
        every = ("read", "write", "create", "list", "remove")
        store.before = fails(number, *every)
        for reply in (client.get(f"/api/sessions/{id_}"), client.get("/api/sessions"), edited(client, id_, 0),
                      client.delete(f"/api/sessions/{id_}")):  # fmt: skip
            assert reply.status_code == status, reply.text
        with pytest.raises(OSError, match=os.strerror(number)):
            made.pool.holder.check()
        store.before = None
        assert edited(client, id_, 0).status_code == 202
        assert idle(client, id_)["head"] == 1


def test_a_store_that_is_slow_makes_edits_slow_and_other_sessions_wait_for_nothing(server, store):
    made, begun, over = server(), threading.Event(), threading.Event()
    with asking(made) as client, ThreadPoolExecutor(1):
        slow, other = created(client), created(client, seed=1)

        def waits(does, path):
            if does == "create" and slow in path:
                begun.set()
                assert over.wait(60)

        store.before = staticmethod(waits)
        edited(client, slow, 0)
        assert begun.wait(60)
        assert client.get(f"/api/sessions/{slow}").json()["head"] == 0
        assert client.get(f"/api/sessions/{other}").status_code == 200
        over.set()
        assert idle(client, slow)["head"] == 1


def test_while_all_memory_is_in_use_light_sessions_are_not_opened(server):
    session = editor().open(picture("ddpm"), steps=2, strength=1.0)
    made = server(memory=int(1.2 * session.recording_bytes), wait=0.1)
    with asking(made) as client:
        first, second = created(client), created(client, seed=1)
        with made.pool.kept(made.pool.find("anna", second)):
            edited(client, first, 0)
            entry = made.pool.find("anna", first)
            assert entry.session is None
        assert edited(client, first, 0).status_code == 202
        assert idle(client, first)["head"] == 1
