"""Edits of sessions that are not in memory yet: they wait as jobs, and what becomes of jobs can be asked for."""

import threading

import numpy as np
import pytest

from pipelines import pipeline
from retouch import Editor
from retouch.editing.diffusion.model import PipelineError
from retouch.editing.session import SessionError
from retouch.server.limits import Limits
from retouch.server.models import Models
from retouch.server.security import Access
from retouch.server.studio import Studio
from server.test_opening import CANVAS, SESSION, SIZES, begun, held
from studios import PORT, TOKENS, asking, edited, idle, keyed, page, pixels, settings, until

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
__all__ = ["held"]


def fresh(home):
    """A studio with a model that has compiled nothing yet."""
    models = Models({"tiny/ddpm": Editor(pipeline("ddpm"), policy="fast", name="tiny/ddpm")})
    return Studio(models, home, Access(PORT, tokens=TOKENS), Limits(wait=0.5))


@pytest.fixture
def client(tmp_path):
    with asking(fresh(tmp_path)) as client:
        yield client


def generated(client):
    return client.post("/api/sessions", data=settings(steps=2, generate=True)).json()


def opening(client, kind):
    """A session that is being opened, and an edit of it."""
    told = generated(client) if kind == "generated" else begun(client, kind)
    reply = edited(client, told["id"], 0)
    assert reply.status_code == 202, reply.text
    return told["id"], told["job"], reply.json()["job"]


def became(client, id_, job):
    reply = client.get(f"/api/sessions/{id_}/jobs/{job}")
    kind = reply.headers["content-type"]
    assert kind == ("application/json" if reply.status_code == 200 else "application/problem+json")
    return reply.status_code, reply.json()


@pytest.mark.parametrize("kind", [CANVAS, SESSION, "generated"])
def test_edits_wait_for_their_session_and_are_made_in_their_order(client, held, kind):
    id_, first, edit = opening(client, kind)
    assert held.begun.wait(60)
    waits = became(client, id_, edit)[1]
    assert (waits["state"], waits["kind"], "done" in waits) == ("queued", "edit", False)
    assert became(client, id_, first)[1]["state"] == "running"
    again = keyed(client, id_, "k").json()["job"]
    assert keyed(client, id_, "k").json()["job"] == again > edit
    other = edited(client, id_, 0, left=2, top=20).json()["job"]
    assert edited(client, id_, 1).status_code == 409
    with page(client, id_, size=SIZES.get(kind, (32, 32))) as here:
        here.hear(lambda m: m.get("event") == "hello")
        held.go.set()
        assert here.done(other)["state"] == "done"
        assert next(e["job"] for e in here.events if e.get("state") == "done") == first
    found = idle(client, id_)
    changed = (pixels(client, id_, found["head"]) != pixels(client, id_, 0)).any(2)
    assert changed[9:14, 14:19].any()
    assert changed[20:25, 2:7].any()
    assert keyed(client, id_, "k").status_code == 202
    assert len(idle(client, id_)["tree"]) == len(found["tree"])
    assert became(client, id_, other) == (200, {"job": other, "state": "done"})


@pytest.mark.parametrize("kind", [CANVAS, SESSION])
def test_an_edit_that_waits_can_be_cancelled(client, held, kind):
    id_, first, edit = opening(client, kind)
    assert held.begun.wait(60)
    assert client.delete(f"/api/sessions/{id_}/jobs/{edit}").status_code == 204
    assert became(client, id_, edit) == (200, {"job": edit, "state": "cancelled"})
    held.go.set()
    assert len(idle(client, id_)["tree"]) == 1
    assert became(client, id_, first)[1]["state"] == "done"


def test_an_edit_fails_as_its_session_did_and_both_can_be_asked_for(client, held):
    held.error = PipelineError("it has no size")
    id_, first, edit = opening(client, SESSION)
    held.go.set()
    until(lambda: client.get(f"/api/sessions/{id_}").status_code == 404)
    for job in (first, edit):
        status, problem = became(client, id_, job)
        assert (status, problem["status"], "no size" in problem["detail"]) == (422, 422, True)
    assert became(client, id_, 99)[0] == became(client, "0" * 32, 1)[0] == 404
    other = {"Authorization": f"Bearer {TOKENS['ben']}"}
    assert client.get(f"/api/sessions/{id_}/jobs/{edit}", headers=other).status_code == 404


def test_a_session_is_opened_again_as_it_was_at_first(tmp_path, held):
    with asking(fresh(tmp_path)) as client:
        held.go.set()
        id_ = begun(client, SESSION)["id"]
        idle(client, id_)
    held.begun.clear()
    held.go.clear()
    with asking(fresh(tmp_path)) as client, page(client, id_) as here:
        here.hear(lambda m: m.get("kind") == "picture")
        edit = edited(client, id_, 0).json()["job"]
        told = here.hear(lambda m: m.get("text") == "preparing the networks")
        assert told["total"] > 1
        assert held.begun.wait(60)
        reply = client.post(f"/api/sessions/{id_}/head", json={"version": 0})
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "2")
        first, last = client.get(f"/api/sessions/{id_}").json()["jobs"]
        assert (first["job"], first["kind"], first["state"]) == (told["job"], "open", "running")
        assert (last["job"], last["kind"], last["state"]) == (edit, "edit", "queued")
        assert client.delete(f"/api/sessions/{id_}/jobs/{told['job']}").status_code == 204
        assert here.done(edit)["error"]["detail"] == "opening the session was cancelled"
        again = threading.Thread(target=held.go.set)
        again.start()
        reply = edited(client, id_, 0)
        if reply.status_code == 503:  # what was cancelled has not ended yet
            reply = edited(client, id_, 0)
        assert here.done(reply.json()["job"])["state"] == "done"
        assert np.array_equal(here.picture, pixels(client, id_, 1))
    assert here.events[0]["session"]["state"] == "open"


def test_what_an_edit_failed_with_can_be_asked_for_when_its_session_is_away(tmp_path, monkeypatch):
    made = fresh(tmp_path)
    with asking(made) as client:
        id_ = begun(client, SESSION)["id"]
        idle(client, id_)
        monkeypatch.setattr("retouch.editing.diffusion.session.DiffusionSession._draw", _fails)
        job = edited(client, id_, 0).json()["job"]
        until(lambda: became(client, id_, job)[0] != 200)
        made.pool.lost(made.pool.find("anna", id_))
        status, problem = became(client, id_, job)
        assert (status, problem["detail"]) == (422, "the device is on fire")


def _fails(*_):
    raise SessionError("the device is on fire")
