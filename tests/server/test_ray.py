"""The studio on Ray Serve: two replicas on one machine, as people and as accidents see them."""

import json
import os
import signal
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests

from pipelines import painted, picture, pipeline
from retouch import Editor, OptionError
from retouch.bench import serve as load
from retouch.editing.lease import SERVERS
from studios import asked_for, created, edited, idle, pixels, settings, stroke

pytest.importorskip("ray")

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]
PORT = 8197
PATIENCE = 300
TESTS = str(Path(__file__).parents[1])


class Client:
    """Requests to a cluster."""

    def __init__(self, token):
        self.base, self.token = f"http://127.0.0.1:{PORT}", token
        self._http = requests.Session()
        self._http.headers["Authorization"] = f"Bearer {token}"

    def get(self, path, **options):
        return self._http.get(self.base + path, timeout=PATIENCE, **options)

    def post(self, path, **options):
        return self._http.post(self.base + path, timeout=PATIENCE, **options)

    def delete(self, path, **options):
        return self._http.delete(self.base + path, timeout=PATIENCE, **options)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def model(home):
    """A tiny model in a folder, as every process finds it."""
    pipeline("ddpm").save_pretrained(home / "tiny")
    return home / "tiny"


@pytest.fixture(scope="module")
def cluster(home, model):
    import ray
    from ray import serve

    from retouch.server.ray.application import FAST, application
    from retouch.server.ray.settings import ClusterSettings

    os.environ.update(FAST)
    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})

    def deployed(replicas=2):
        given = {"name": str(model), "policy": "fast", "replicas": replicas, "cpus": 0.5}
        found = ClusterSettings(home=home / "home", models=[given], users=["anna", "ben"], port=PORT, drain=30)
        serve.run(application(found), name="retouch", route_prefix="/")
        return found

    yield deployed
    serve.shutdown()
    ray.shutdown()


@pytest.fixture(scope="module")
def settings_of(cluster):
    return cluster()


@pytest.fixture(scope="module")
def client(settings_of):
    return Client(settings_of.access().tokens["anna"])


def replicas_of(client, id_, count=5):
    return Counter(client.get(f"/api/sessions/{id_}").headers["retouch-replica"] for _ in range(count))


def processes(home):
    """Replicas by their process."""
    found = [json.loads(file.read_text()) for file in (home / "home" / "sessions" / SERVERS).glob("*/about.json")]
    return [each["pid"] for each in found]


@contextmanager
def page(client, id_):
    from websockets.sync.client import connect

    address = f"ws://{urlsplit(client.base).netloc}/api/sessions/{id_}/live"
    with connect(address, additional_headers={"Authorization": f"Bearer {client.token}"}, max_size=None) as socket:
        yield socket


def test_the_api_and_the_page_are_those_of_a_studio(client, model):
    assert client.get("/").status_code == 200
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"tiny": True}
    assert [each["name"] for each in client.get("/api/models").json()] == ["tiny"]
    id_ = created(client)
    assert edited(client, id_, 0).status_code == 202
    assert idle(client, id_, PATIENCE)["head"] == 1
    expected = Editor.from_pretrained(str(model), policy="fast", device="cpu")
    session = expected.open(picture("ddpm"), steps=2, strength=1.0)
    session.edit(painted(session.pixels))
    assert np.array_equal(pixels(client, id_, 1), session.pixels)
    assert id_ in [each["id"] for each in client.get("/api/sessions").json()]
    assert client.get(f"/api/sessions/{id_}/archive").content[:2] == b"PK"
    assert client.delete(f"/api/sessions/{id_}").status_code == 204


def test_pages_are_told_what_happens(client):
    id_ = created(client)
    with page(client, id_) as socket:
        assert json.loads(socket.recv(PATIENCE))["event"] == "hello"
        job = edited(client, id_, 0).json()["job"]
        while True:
            message = socket.recv(PATIENCE)
            if isinstance(message, bytes):
                header = json.loads(message[4 : 4 + int.from_bytes(message[:4], "little")])
                if (header["kind"], header["job"]) == ("result", job):
                    break


def test_who_asks_and_for_what_is_taken_from_nowhere_else(client, settings_of):
    id_ = created(client)
    other = Client(settings_of.access().tokens["ben"])
    told = {"x-session-id": id_, "retouch-session": id_}
    assert other.get(f"/api/sessions/{id_}").status_code == 404
    assert other.get(f"/api/sessions/{'f' * 32}", headers=told).status_code == 404
    assert client.get(f"/api/sessions/{'f' * 32}", headers=told).status_code == 404
    assert Client("no token").get("/api/models").status_code == 401
    assert client.get("/api/models", headers={"Host": "evil.example"}).status_code == 403


def test_a_session_stays_with_its_replica(client):
    ids = [created(client) for _ in range(4)]
    for id_ in ids:
        assert len(replicas_of(client, id_)) == 1
    for id_ in ids:
        client.delete(f"/api/sessions/{id_}")


def test_a_session_that_is_asked_for_twice_is_made_once(client):
    made = asked_for(client, "twice")
    id_ = made.json()["id"]
    assert replicas_of(client, id_, 1) == Counter([made.headers["retouch-replica"]])
    idle(client, id_, PATIENCE)
    assert asked_for(client, "twice").json()["id"] == id_


def test_killed_replicas_lose_nothing_and_make_nothing_twice(client, home, monkeypatch):
    monkeypatch.setattr(load, "PATIENCE", PATIENCE)
    kills = int(os.environ.get("RETOUCH_RAY_KILLS", "1"))
    before = processes(home)
    assert len(before) == 2

    def paint():
        people = load.Load(people=3, rate=5, strokes=4 + 8 * kills, think=0.1, undo=0.1, reopen=0.1, size=32,
                           stroke=5, steps=2)  # fmt: skip
        return load.drive([load.Server("it", client.base, client.token)], people)["it"]

    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(paint)
        for number in range(kills):
            time.sleep(2)
            alive = [pid for pid in processes(home) if Path(f"/proc/{pid}").exists()]
            os.kill(alive[number % len(alive)], signal.SIGKILL)
            end = time.monotonic() + PATIENCE
            while client.get("/readyz").status_code != 200 and time.monotonic() < end:
                time.sleep(0.2)
        tally = found.result(2 * PATIENCE)
    assert (tally.failed, tally.lost, tally.twice) == ([], 0, 0)
    assert len(tally.seconds) == 3 * (4 + 8 * kills)


def test_a_drain_fails_no_request(client, cluster):
    """One replica less while sessions of both are read and edited."""
    ids = [created(client) for _ in range(4)]
    heads = dict.fromkeys(ids, 0)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        changed = pool.submit(cluster, 1)
        rounds = 0
        while not changed.done() or rounds < 3:
            rounds += 1
            for id_ in ids:
                reply = client.post(
                    f"/api/sessions/{id_}/edits",
                    data=settings(base=heads[id_], rect=[2, 2, 5, 5], refine=False),
                    files={"overlay": ("o.png", stroke(colour=(rounds * 20 % 256, 0, 40, 255)))},
                    headers={"Idempotency-Key": f"{id_} {rounds}"},
                )
                assert reply.status_code == 202, reply.text
                heads[id_] = idle(client, id_, PATIENCE)["head"]
        changed.result()
    assert {id_: idle(client, id_)["head"] for id_ in ids} == heads
    assert len(sum((replicas_of(client, id_, 1) for id_ in ids), Counter())) == 1


# Without a cluster


def test_a_node_with_another_folder_does_not_start(tmp_path):
    from retouch.server.ray.settings import ClusterSettings

    made = ClusterSettings(home=tmp_path / "a", models=[{"name": "builtin/emoji"}]).proven()
    made.check_shared()
    with pytest.raises(OptionError, match="storage that all nodes share"):
        made.model_copy(update={"home": tmp_path / "b"}).check_shared()
    ClusterSettings(home=tmp_path / "b", models=[{"name": "builtin/emoji"}]).proven()
    with pytest.raises(OptionError, match="storage that all nodes share"):
        made.model_copy(update={"home": tmp_path / "b"}).check_shared()


def test_replicas_follow_the_work_that_waits_and_the_memory_that_is_taken():
    from types import SimpleNamespace

    from retouch.server.ray.placement import BACKLOG, HELD, wanted

    def count(waiting, held):
        told = {BACKLOG: dict(enumerate(waiting)), HELD: dict(enumerate(held))}
        return wanted(
            SimpleNamespace(aggregated_metrics=told, capacity_adjusted_min_replicas=1, capacity_adjusted_max_replicas=9)
        )[0]

    assert count([0, 0], [0.1, 0.1]) == 1
    assert count([25, 0], [0.1, 0.1]) == 3
    assert count([0, 0], [0.9, 0.9]) == 3
    assert count([1000], [0.1]) == 9


def test_new_sessions_go_where_there_is_room_and_stay():
    import asyncio
    from concurrent.futures import ThreadPoolExecutor
    from types import SimpleNamespace

    from retouch.server.ray.placement import CHOSEN, DRAWN, FREE, Affinity

    replicas = {
        name: SimpleNamespace(name=name, routing_stats={FREE: free}) for name, free in {"a": 1, "b": 5, "c": 3}.items()
    }
    router = object.__new__(Affinity)
    router._replicas = replicas
    router._lookup_ranked_replicas = lambda id_: [id_[0]]

    def chosen(state):
        request = SimpleNamespace(
            metadata=SimpleNamespace(session_id=""), args=[{"state": state}], routing_context=SimpleNamespace()
        )
        with ThreadPoolExecutor(1) as thread:  # in this one the loop of a browser may run
            return thread.submit(asyncio.run, router.choose_replicas(list(replicas.values()), request)).result()

    state = {DRAWN: ["a1", "c1", "b1"]}
    assert chosen(state) == [[replicas["b"]]]
    assert state[CHOSEN] == "b1"
    replicas["b"].routing_stats[FREE] = 0
    assert chosen(state) == [[replicas["b"]]]  # sent again: the same id
    assert [each.name for (each,) in chosen({})] == ["c", "a", "b"]
