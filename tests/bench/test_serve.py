"""People who paint on a server, and what is counted of it."""

import json
from collections import Counter

import pytest

from commands import run, said
from retouch.bench.serve import Load, Server, Tally, drive
from studios import TOKENS, served, studio

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
LOAD = {"people": 2, "rate": 50, "strokes": 4, "think": 0.01, "undo": 0.3, "reopen": 0.3, "size": 32, "stroke": 5}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(studio(tmp_path_factory.mktemp("home"))) as address:
        yield Server("it", address, TOKENS["anna"])


def test_what_people_paint_is_timed_and_compared(server):
    tally = drive([server], Load(**LOAD, steps=2))["it"]
    assert len(tally.seconds) == 8
    assert len(tally.recording) == 2
    found = tally.report()
    assert (found["failed"], found["lost"], found["twice"]) == ([], 0, 0)
    assert 0 < found["p50"] <= found["p95"] <= found["p99"]
    assert found["retouch_evictions_total"] == 0
    assert found["affinity"] is None  # no cluster


def test_what_is_missing_or_there_twice_is_noticed(server, monkeypatch):
    import retouch.bench.serve as serve

    compare = serve.Person._compare
    monkeypatch.setattr(serve.Person, "_compare", lambda self, painted: compare(self, painted + 1))
    assert drive([server], Load(**{**LOAD, "people": 1}, steps=2))["it"].report()["lost"] == 1
    monkeypatch.setattr(serve.Person, "_compare", lambda self, painted: compare(self, painted - 1))
    assert drive([server], Load(**{**LOAD, "people": 1}, steps=2))["it"].report()["twice"] == 1


def test_affinity_is_the_share_of_requests_at_the_replica_that_had_most():
    tally = Tally(replicas=[Counter(a=9, b=1), Counter(b=10), Counter()])
    report = tally.report()
    assert (report["affinity"], report["requests"], report["elsewhere"]) == (0.95, 20, 1)


def test_a_person_who_is_refused_is_told_of(server):
    wrong = Server("it", server.url, "no token")
    tally = drive([wrong], Load(**{**LOAD, "people": 1}))["it"]
    assert len(tally.failed) == 1
    assert "401" in tally.failed[0]


def test_the_command_writes_what_it_shows(server, tmp_path):
    words = ["--people", "1", "--rate", "50", "--strokes", "2", "--think", "0", "--size", "32", "--stroke", "5"]
    file = tmp_path / "out.json"
    shown = run("bench", "serve", server.url, "--token", server.token, *words, "--steps", "2", "--json", str(file))
    assert shown.exit_code == 0, shown.output
    found = json.loads(file.read_text())
    assert found["load"]["people"] == 1
    assert len(found["servers"]["server"]["seconds"]) == 2
    assert server.token not in shown.output
    assert server.token not in file.read_text()


def test_a_stroke_fits_its_picture():
    shown = run("bench", "serve", "http://127.0.0.1:1", "--size", "8", "--stroke", "9")
    assert shown.exit_code == 2
    assert "does not fit" in said(shown)
