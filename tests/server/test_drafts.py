"""Drafts: what an edit would make is shown while a stroke is drawn, and the session stays as it is."""

import threading

import numpy as np
import pytest

from pipelines import painted, picture
from retouch.editing.calls import Calls
from studios import created, edited, editor, idle, page, pixels, settings, stroke

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def test_a_draft_is_seen_and_leaves_no_trace(client):
    id_ = created(client)
    folder = client.app.app.app.state.studio.pool.home.folder / "anna" / id_
    files = sorted(folder.rglob("*"))
    with page(client, id_) as here:
        here.hear(lambda m: m.get("kind") == "picture")
        job = edited(client, id_, 0, draft=True).json()["job"]
        frame = here.hear(lambda m: m.get("kind") == "preview")
        assert (frame["job"], frame["version"]) == (job, 1)
        left, top, width, height = frame["rect"]
        assert left <= 14 < left + width < 32
        assert top <= 9 < top + height < 32
        assert here.done(job)["state"] == "done"
        assert [event["event"] for event in here.events].count("tree") == 0
        assert "result" not in here.kinds
    found = idle(client, id_)
    assert (found["head"], len(found["tree"])) == (0, 1)
    assert np.array_equal(pixels(client, id_, 0), picture("ddpm"))
    assert sorted(folder.rglob("*")) == files


def test_a_stroke_of_many_drafts_becomes_one_version_which_is_that_of_the_library(client):
    id_ = created(client)
    for size in range(1, 6):
        assert edited(client, id_, 0, size=size, draft=True).status_code == 202
    assert edited(client, id_, 0, size=5).status_code == 202
    found = idle(client, id_)
    assert [version["parent"] for version in found["tree"]] == [None, 0]
    expected = editor().open(picture("ddpm"), steps=2, strength=1.0)
    expected.edit(painted(expected.pixels))
    assert np.array_equal(pixels(client, id_, 1), expected.pixels)


@pytest.fixture
def held(monkeypatch):
    """Network calls wait until `open`; `begun` says that one does."""
    begun, gate, update = threading.Event(), threading.Event(), Calls.update

    def waiting(self, *args, **kwargs):
        begun.set()
        assert gate.wait(30)
        return update(self, *args, **kwargs)

    monkeypatch.setattr(Calls, "update", waiting)
    yield begun, gate
    gate.set()


@pytest.mark.parametrize("following", [{"draft": True}, {}, {"what": "variants"}])
def test_the_next_one_stops_a_draft_and_an_edit_joins_those_before_it(client, held, following):
    begun, gate = held
    id_ = created(client)
    with page(client, id_) as here:
        first = edited(client, id_, 0, draft=True).json()["job"]
        assert begun.wait(30)
        what = following.pop("what", "edits")
        reply = client.post(
            f"/api/sessions/{id_}/{what}",
            data=settings(base=0, rect=[2, 20, 5, 5], **following, **({"n": 2} if what == "variants" else {})),
            files={"overlay": ("o.png", stroke())},
        )
        assert reply.status_code == 202, reply.text
        gate.set()
        assert here.done(first)["state"] == "cancelled"
        assert here.done(reply.json()["job"])["state"] == "done"
    made = 0 if following else (2 if what == "variants" else 1)
    assert len(idle(client, id_)["tree"]) == 1 + made


def test_an_edit_that_runs_is_not_stopped_by_a_draft_but_joined_over_it(client, held):
    begun, gate = held
    id_ = created(client)
    edited(client, id_, 0, left=2, top=20)
    assert begun.wait(30)
    edited(client, id_, 0, draft=True)
    assert edited(client, id_, 0).status_code == 202
    gate.set()
    found = idle(client, id_)
    assert [version["parent"] for version in found["tree"]] == [None, 0]
    expected = editor().open(picture("ddpm"), steps=2, strength=1.0)
    expected.edit(painted(painted(expected.pixels), 20, 2))
    assert np.array_equal(pixels(client, id_, 1), expected.pixels)


def test_a_draft_that_cannot_be_is_told_and_a_stale_one_refused(client):
    id_ = created(client, strength=0.5)
    with page(client, id_) as here:
        job = edited(client, id_, 0, draft=True, strength=1.0).json()["job"]
        ended = here.done(job)
    assert ended["state"] == "failed"
    assert ended["error"]["status"] == 422
    assert edited(client, id_, 3, draft=True).status_code == 409
    assert client.post(f"/api/sessions/{id_}/variants", data=settings(base=0, draft=True)).status_code == 422
