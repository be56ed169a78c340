"""Edits of many sessions that wait for one device: computed together, each as if it were alone."""

from threading import Event

import numpy as np
import pytest

from pipelines import painted, picture
from retouch.editing import meeting
from retouch.editing.worker import TOGETHER, worker_of
from retouch.incremental import Incremental
from retouch.server.limits import Limits
from retouch.server.tasks import Question
from studios import asking, created, edited, editor, idle, pixels, studio

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

WAIT = 240
PEOPLE = 8


@pytest.fixture(autouse=True)
def gains(monkeypatch):
    """A tiny network is taken to gain, and nobody is late."""
    monkeypatch.setattr(Incremental, "gain", lambda self, region: 4.0)
    monkeypatch.setattr(meeting, "PATIENCE", WAIT)
    yield
    worker_of(editor().device).together = TOGETHER


def place(number):
    return {"left": 2 + 3 * number, "top": 25 - 3 * number}


def painted_by_all(client, drafts=()):
    """Sessions with one stroke each, which waited for the device together."""
    ids = [created(client, seed=number) for number in range(PEOPLE)]
    go = Event()
    worker_of(editor().device).submit(object(), Question(lambda: go.wait(WAIT)), False)
    for number, id_ in enumerate(ids):
        assert edited(client, id_, 0, **place(number), draft=number in drafts).status_code == 202
    go.set()
    for id_ in ids:
        idle(client, id_, WAIT)
    return ids


def counts(client, kind="edit"):
    """Edits by how many were computed at once with them, at most."""
    start = f'retouch_edits_together_bucket{{kind="{kind}",le="'
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith(start)]
    return {line[len(start) :].split('"')[0]: float(line.split()[-1]) for line in lines}


def test_eight_sessions_whose_edits_wait(tmp_path):
    with asking(studio(tmp_path, Limits(together=PEOPLE))) as client:
        ids = painted_by_all(client)
        for number, id_ in enumerate(ids):
            expected = editor().open(picture("ddpm", number), steps=2, strength=1.0)
            expected.edit(painted(expected.pixels, place(number)["top"], place(number)["left"]))
            assert np.array_equal(pixels(client, id_, 1), expected.pixels)
        found = counts(client)
        assert (found["6.0"], found["8.0"]) == (0, PEOPLE)


def test_it_is_off_unless_it_is_asked_for(tmp_path):
    with asking(studio(tmp_path)) as client:
        painted_by_all(client)
        assert counts(client)["1.0"] == PEOPLE


def test_drafts_are_computed_with_edits_and_make_no_version(tmp_path):
    with asking(studio(tmp_path, Limits(together=4))) as client:
        ids = painted_by_all(client, drafts=(1, 2))
        heads = [client.get(f"/api/sessions/{id_}").json()["head"] for id_ in ids]
        assert heads == [1, 0, 0, 1, 1, 1, 1, 1]
        assert counts(client)["3.0"] == counts(client, "draft")["3.0"] == 0
        assert counts(client, "draft")["4.0"] == 2


def test_one_that_is_cancelled_and_one_that_is_deleted(tmp_path):
    with asking(studio(tmp_path, Limits(together=PEOPLE))) as client:
        ids = [created(client, seed=number) for number in range(4)]
        go = Event()
        worker_of(editor().device).submit(object(), Question(lambda: go.wait(WAIT)), False)
        jobs = [edited(client, id_, 0, **place(number)).json()["job"] for number, id_ in enumerate(ids)]
        assert client.delete(f"/api/sessions/{ids[0]}/jobs/{jobs[0]}").status_code == 204
        assert client.delete(f"/api/sessions/{ids[1]}").status_code == 204
        go.set()
        assert idle(client, ids[0], WAIT)["head"] == 0
        for number in (2, 3):
            assert idle(client, ids[number], WAIT)["head"] == 1
        assert counts(client)["2.0"] == 2
