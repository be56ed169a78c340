"""What is taken on, and what is told to come again: by predicted seconds of work."""

import logging
import threading

import numpy as np
import pytest

from retouch.server import cost, work
from retouch.server.cost import Recording, admit, of_edit, of_everything, of_expansion
from retouch.server.drawn import Place
from retouch.server.limits import Limits
from retouch.server.problems import Problem
from retouch.server.tasks import Question
from retouch.server.waiting import using
from studios import asking, created, edited, idle, pixels, studio

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


PLACE = Place(None, (slice(0, 1), slice(0, 1)))


def test_there_is_room_where_nothing_waits_and_less_of_it_for_recordings():
    admit(0, 1000, 10, recording=True)
    admit(4, 1, 10, recording=True)
    admit(8, 2, 10, recording=False)
    with pytest.raises(Problem) as refused:
        admit(8, 5.5, 10, recording=False)
    assert refused.value.status_code == 429
    assert refused.value.headers["Retry-After"] == "4"
    with pytest.raises(Problem):
        admit(4, 2, 10, recording=True)


def test_a_full_server_says_when_to_come_again_and_shows_what_waits(tmp_path, monkeypatch):
    made = studio(tmp_path, Limits(backlog=10))
    with asking(made) as client:
        first, second = created(client), created(client, seed=1)
        monkeypatch.setattr("retouch.server.edits.of_edit", lambda *_: 6.0)
        held = threading.Event()
        with using(made, made.pool.find("anna", first)) as session:
            blocking = session.start(Question(held.wait))
            assert edited(client, first, 0).status_code == 202
            assert "retouch_backlog_seconds 6.0" in client.get("/metrics").text
            refused = edited(client, second, 0)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "2")
            monkeypatch.setattr("retouch.server.edits.of_edit", lambda *_: 0.5)
            client.headers["Retouch-Deadline"] = "5"  # six seconds wait
            assert edited(client, second, 0).status_code == 429
            del client.headers["Retouch-Deadline"]
            held.set()
            blocking.result(60)
        idle(client, first)
        assert "retouch_backlog_seconds 0.0" in client.get("/metrics").text
        assert edited(client, second, 0).status_code == 202
        idle(client, second)


def test_edits_are_predicted_from_what_the_last_ones_took(tmp_path):
    made = studio(tmp_path)
    with asking(made) as client:
        id_ = created(client)
        with using(made, made.pool.find("anna", id_)) as session:
            whole = of_everything(session)
            assert whole > 0
            assert of_edit(session, PLACE) == whole
            assert edited(client, id_, 0).status_code == 202
            share = idle(client, id_)["tree"][1]["share"]
            assert of_edit(session, PLACE) == pytest.approx(whole * share)


def test_edits_of_canvases_take_what_their_planner_predicts(tmp_path):
    made = studio(tmp_path)
    with asking(made) as client:
        id_ = created(client, canvas=True)
        with using(made, made.pool.find("anna", id_)) as session:
            mask, box = np.full((5, 5), 255, np.uint8), (slice(9, 14), slice(14, 19))
            chosen = session.plan(mask=mask, box=box).chosen
            assert of_edit(session, Place(mask, box)) == chosen.seconds > 0
            held = threading.Event()
            blocking = session.start(Question(held.wait))
            with session.lock:  # as while an edit is made
                assert edited(client, id_, 0).status_code == 202
            backlog = float(client.get("/metrics").text.split("\nretouch_backlog_seconds ")[1].split()[0])
            assert backlog == pytest.approx(chosen.seconds)
            held.set()
            blocking.result(60)
        idle(client, id_)
        with using(made, made.pool.find("anna", id_)) as session:
            assert of_expansion(session, 2 * 32 * 32) == 2 * of_expansion(session, 9) > 0


def test_logs_name_sessions_and_jobs_and_nothing_that_was_asked(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger=work.log.name)
    with asking(studio(tmp_path, names=("sd",))) as client:
        id_ = created(client, prompt="a secret wish")
        assert edited(client, id_, 0, prompt="another").status_code == 202
        idle(client, id_)
    told = [record for record in caplog.records if getattr(record, "session", None) == id_]
    assert {"begun", "ended"} == {record.getMessage().split()[1] for record in told}
    assert len({record.job for record in told}) == 2
    everything = " ".join(str(vars(record)) for record in caplog.records)
    assert "secret" not in everything
    assert "another" not in everything
    assert client.headers["Authorization"].split()[1] not in everything


def test_logs_have_the_words_that_were_asked_where_somebody_wants_that(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger=work.log.name)
    with asking(studio(tmp_path, names=("sd",), log_prompts=True)) as client:
        id_ = created(client, prompt="a secret wish", negative="no")
        assert edited(client, id_, 0, prompt="another").status_code == 202
        idle(client, id_)
    begun = [record for record in caplog.records if record.getMessage() == "job begun"]
    assert [(record.kind, record.prompt) for record in begun] == [("open", "a secret wish"), ("edit", "another")]
    assert [getattr(record, "negative", None) for record in begun] == ["no", None]
    everything = " ".join(str(vars(record)) for record in caplog.records)
    assert client.headers["Authorization"].split()[1] not in everything


def test_what_a_recording_takes_is_known_from_the_last_one(tmp_path, monkeypatch):
    made = studio(tmp_path, Limits(backlog=10))
    asked = []
    monkeypatch.setattr("retouch.server.sessions.admit", lambda *of, recording: asked.append((*of, recording)))
    with asking(made) as client:
        created(client)
        created(client, seed=1)
    assert [each[1] for each in asked] == [0.0, next(iter(made.recordings.values())).seconds]
    assert all(each[3] for each in asked)
    assert cost.RECORDINGS < 1


def test_a_session_that_is_recorded_again_faster_than_read_is_kept_light(tmp_path):
    assert not Recording().is_made_faster_than_read(1.0)
    assert not Recording(2.0, 100).is_made_faster_than_read(100)
    assert Recording(2.0, 1000).is_made_faster_than_read(100)
    made = studio(tmp_path, Limits(read_rate=1e-3))
    with asking(made) as client:
        whole, light = created(client), created(client)  # of the first one nothing is known before
        for id_ in (whole, light):
            assert edited(client, id_, 0).status_code == 202
            idle(client, id_)
        sizes = {
            id_: sum(file.stat().st_size for file in (tmp_path / "anna" / id_).rglob("*")) for id_ in (whole, light)
        }
        assert sizes[light] < sizes[whole] / 10
    with asking(studio(tmp_path)) as client:
        for id_ in (whole, light):
            assert edited(client, id_, 1, left=2, top=20).status_code == 202
            idle(client, id_)
        assert np.array_equal(pixels(client, whole, 2), pixels(client, light, 2))
