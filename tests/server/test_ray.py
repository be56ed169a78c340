"""The studio on Ray Serve: nodes of one cluster on loopback, as people and as accidents see them.

RETOUCH_KILLS says how often something is killed; without it, once each of what is quick.
"""

import itertools
import json
import os
import shutil
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
import requests
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import stores
from manifests import alter
from pipelines import painted, picture, pipeline
from retouch import Editor, OptionError
from retouch.bench import serve as load
from retouch.editing.lease import TTL
from retouch.editing.manifest import MANIFEST
from studios import asked_for, created, edited, free_port, idle, pixels, settings, stroke, until

pytest.importorskip("ray")

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]
PORT = free_port()
PATIENCE = 300
WATCHERS = 8
KILLS = int(os.environ.get("RETOUCH_KILLS", "0"))


class Client:
    """Requests to a cluster."""

    def __init__(self, token):
        self.base, self.token = f"http://127.0.0.1:{PORT}", token
        self._http = requests.Session()
        self._http.headers["Authorization"] = f"Bearer {token}"

    def close(self):
        self._http.close()

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


class Nodes:
    """A head, which keeps what it knows in a folder, and another node, each with room for a replica."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        self.folder = Path(os.environ["RAY_TMPDIR"])
        used = self.folder / "ray"
        used.mkdir()  # where Ray writes the address of a cluster, whatever `temp_dir` is
        self._options = {"num_cpus": 1, "temp_dir": str(used), "include_dashboard": False, "include_log_monitor": False}
        stored = {"gcs_storage": "rocksdb", "gcs_storage_path": f"{self.folder}/head"}
        self.cluster = Cluster(True, head_node_args={**self._options, "no_monitor": True, "_system_config": stored})
        self.add()

    def add(self):
        self.cluster.add_node(wait=False, **self._options)

    def processes(self, name, nodes=None):
        """Those of Ray that are called so."""
        for node in nodes or self.cluster.list_all_nodes():
            raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
            yield from (each for each in raylet.children() if name in " ".join(each.cmdline()))

    def kill(self, what):
        """As `kill -9`; a node comes back as another one, a head as itself."""
        if what == "node":
            node = next(iter(self.cluster.worker_nodes))
            for process in list(self.processes("", [node])):
                process.kill()
            self.cluster.remove_node(node, allow_graceful=False)
            self.add()
        elif what == "head":
            self.cluster.head_node.kill_gcs_server()
            self.cluster.head_node.start_gcs_server()
        else:
            next(self.processes(what)).kill()

    def pause(self, name, seconds):
        process = next(self.processes(name))
        process.suspend()
        time.sleep(seconds)
        process.resume()

    def close(self):
        self.cluster.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def nodes():
    import ray
    from ray import serve

    from retouch.server.ray.application import FAST

    with pytest.MonkeyPatch.context() as patch:
        # The folder has a short name, as sockets want it.
        for name, value in {**FAST, "RAY_TMPDIR": tempfile.mkdtemp(prefix="ray-")}.items():
            patch.setenv(name, value)
        found = Nodes()
        ray.init(found.cluster.address, log_to_driver=False)
        serve.start(proxy_location="Disabled")
        yield found
        serve.shutdown()
        ray.shutdown()
        found.close()


@pytest.fixture(scope="module")
def deploy(home, model, nodes):
    """Deploys the application with other settings than before."""
    from ray import serve

    from retouch.server.ray.application import application
    from retouch.server.ray.settings import ClusterSettings

    def deployed(replicas=2, where=home / "home", **limits):
        given = {"name": str(model), "policy": "fast", "replicas": replicas, "cpus": 1}
        found = ClusterSettings(
            home=where,
            models=[given],
            users=["anna", "ben"],
            port=PORT,
            drain=30,
            ingresses=2,
            limits={"watchers": WATCHERS, **limits},
        )
        serve.run(application(found), name="retouch", route_prefix=None)
        return found

    return deployed


@pytest.fixture(scope="module")
def settings_of(deploy):
    return deploy()


@pytest.fixture(scope="module")
def client(settings_of):
    with closing(Client(settings_of.access().tokens["anna"])) as found:
        yield found


def replicas_of(client, id_, count=5):
    return Counter(client.get(f"/api/sessions/{id_}").headers["retouch-replica"] for _ in range(count))


@contextmanager
def page(client, id_):
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


def test_pages_that_were_closed_take_no_room(client):
    id_ = created(client)

    def greeted():
        with page(client, id_) as socket:
            try:
                return json.loads(socket.recv(PATIENCE))["event"] == "hello"
            except ConnectionClosed:
                return False

    for _ in range(WATCHERS + 2):
        greeted()
    until(greeted)


def test_who_asks_and_for_what_is_taken_from_nowhere_else(client, settings_of):
    id_ = created(client)
    told = {"x-session-id": id_, "retouch-session": id_}
    with closing(Client(settings_of.access().tokens["ben"])) as other, closing(Client("no token")) as nobody:
        assert other.get(f"/api/sessions/{id_}").status_code == 404
        assert other.get(f"/api/sessions/{'f' * 32}", headers=told).status_code == 404
        assert nobody.get("/api/models").status_code == 401
    assert client.get(f"/api/sessions/{'f' * 32}", headers=told).status_code == 404
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


def test_a_session_of_a_model_that_no_replica_has_is_refused(client, home):
    id_ = created(client)
    sessions = home / "home" / "sessions" / "anna"
    other = "f" * 32
    shutil.copytree(sessions / id_, sessions / other, ignore=shutil.ignore_patterns("owners"))
    alter(sessions / other, lambda body: body["settings"].update(model="gone"))
    reply = client.get(f"/api/sessions/{other}")
    assert (reply.status_code, "no replica has" in reply.text) == (409, True)
    shutil.rmtree(sessions / other)


VICTIMS = ("ServeReplica:retouch:model", "ServeReplica:retouch:ingress", "node")
RARE = ("head", "ServeController", "pause")


def test_what_is_killed_under_load_loses_nothing_and_makes_nothing_twice(client, nodes, monkeypatch):
    """Replicas, ingresses, nodes, and when it may take longer the head, the controller, and a pause of a replica."""
    monkeypatch.setattr(load, "PATIENCE", PATIENCE)
    server, tallies, over = load.Server("it", client.base, client.token), [], threading.Event()

    def paint():
        while not over.is_set():
            people = load.Load(people=3, rate=5, strokes=6, think=0.1, undo=0.1, reopen=0.1, size=32, stroke=5,
                               steps=2, seed=len(tallies))  # fmt: skip
            tallies.append(load.drive([server], people)["it"])

    with ThreadPoolExecutor(1) as pool:
        painting = pool.submit(paint)
        try:
            for number, what in enumerate(itertools.islice(itertools.cycle(VICTIMS + RARE), KILLS or len(VICTIMS))):
                time.sleep(2)
                if what == "pause":
                    nodes.pause(VICTIMS[0], TTL + 5)
                else:
                    nodes.kill(what)
                ready(client)
                print(number, what, sum(len(tally.seconds) for tally in tallies), flush=True)
        finally:
            over.set()
        painting.result(2 * PATIENCE)
    assert [tally.failed for tally in tallies if tally.failed] == []
    assert not any(any(tally.surplus) for tally in tallies)  # nothing is lost, and nothing there twice
    assert sum(len(tally.seconds) for tally in tallies) == 18 * len(tallies)
    assert sum(len(tally.refusals) for tally in tallies) > 0  # the kills were felt
    print({"kills": KILLS, "strokes": 18 * len(tallies), "longest": max(max(tally.seconds) for tally in tallies)})


def ready(client):
    """Wait until every model is served."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if client.get("/readyz").status_code == 200:
                return
        except requests.ConnectionError:  # the ingress that it was connected to has ended
            pass
        time.sleep(0.2)
    raise AssertionError("no replica came back")


def _painted(client, id_, base, colour, key):
    return client.post(
        f"/api/sessions/{id_}/edits",
        data=settings(base=base, rect=[2, 2, 5, 5], refine=False),
        files={"overlay": ("o.png", stroke(colour=colour))},
        headers={"Idempotency-Key": key},
    )


def test_an_upgrade_and_a_drain_fail_no_request(client, deploy):
    """The application is deployed with another setting, and one replica less, while sessions of both are edited."""
    ids = [created(client) for _ in range(4)]
    heads, rounds = dict.fromkeys(ids, 0), 0
    before = sum((replicas_of(client, id_, 1) for id_ in ids), Counter())
    with ThreadPoolExecutor(1) as pool:
        changed = pool.submit(deploy, 1, backlog=60)
        while not changed.done() or rounds < 3:
            rounds += 1
            for id_ in ids:
                colour = (rounds * 20 % 256, 0, 40, 255)
                reply = _painted(client, id_, heads[id_], colour, f"{id_} {rounds}")
                assert reply.status_code == 202, reply.text
                heads[id_] = idle(client, id_, PATIENCE)["head"]
        changed.result()
    assert heads == dict.fromkeys(ids, rounds)
    assert {id_: idle(client, id_)["head"] for id_ in ids} == heads
    after = sum((replicas_of(client, id_, 1) for id_ in ids), Counter())
    assert len(after) == 1
    assert after.keys().isdisjoint(before)


def test_sessions_in_a_store_of_objects_outlive_the_replica_that_has_them(deploy, nodes, home):
    """Also a picture that is so large that it goes by the store."""
    where = f"file://{home}/store"
    with closing(Client(deploy(where=where).access().tokens["anna"])) as client:
        ready(client)
        id_ = created(client)
        for number in range(2):
            assert _painted(client, id_, number, (number, 0, 40, 255), f"k {number}").status_code == 202
            assert idle(client, id_, PATIENCE)["head"] == number + 1
            nodes.kill(VICTIMS[0])
            ready(client)
            assert _painted(client, id_, number, (number, 0, 40, 255), f"k {number}").status_code == 202
            assert idle(client, id_, PATIENCE)["head"] == number + 1
        large = b"x" * (9 << 20)
        assert client.post("/api/archives", files={"archive": ("a.zip", large)}).status_code == 415
    until(lambda: not list((home / "store").rglob("incoming/*")))
    assert list((home / "store" / "sessions" / "log" / "anna").glob(f"{id_}.*"))
    assert not list((home / "store").rglob(MANIFEST))


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


@pytest.mark.parametrize(
    "wrong", [{"limits": {"job": 3}}, {"limits": {"memory": 1e9}}, {"limits": {"jobs": 0}}, {"port": 70000}]
)
def test_settings_that_mean_nothing_are_refused(tmp_path, wrong):
    from retouch.server.ray.settings import ClusterSettings

    with pytest.raises(ValueError, match=next(iter(wrong))):
        ClusterSettings(home=tmp_path, models=[{"name": "builtin/emoji"}], **wrong)


def test_an_answer_that_is_fetched_slowly_waits_where_it_is_made():
    """As a large archive, or what a page on a slow line is told."""
    import asyncio

    from retouch.server.ray.exchange import AHEAD, Exchange

    sent, over = [], []

    async def app(scope, receive, send):
        for number in range(100 * AHEAD):
            await send({"type": "http.response.body", "body": bytes([number % 256]), "more_body": True})
            sent.append(number)
        over.append((await receive())["type"])

    async def fetched():
        pieces = Exchange(app, {"type": "http"}, b"").pieces()
        found = await anext(pieces)
        await asyncio.sleep(0.05)
        assert len(found) <= AHEAD
        assert AHEAD <= len(sent) <= 2 * AHEAD
        found += await anext(pieces)
        assert [message["body"][0] for message in found] == list(range(len(found)))
        await pieces.aclose()

    with ThreadPoolExecutor(1) as thread:  # in this one the loop of a browser may run
        thread.submit(asyncio.run, fetched()).result(60)
    assert over == ["http.request"]  # it went on to its end when nobody fetched any more


def test_replicas_follow_the_work_that_waits_and_the_memory_that_is_taken():
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


def test_a_store_that_cannot_be_used_is_said_before_anything_is_started():
    from retouch.server.ray.application import application
    from retouch.server.ray.settings import ClusterSettings

    with stores.emptied() as store:
        store.before = staticmethod(lambda *_: (_ for _ in ()).throw(PermissionError(13, "Forbidden")))
        for where, why in ((stores.URL, "Forbidden"), ("nothing://bucket", "Protocol not known")):
            with pytest.raises(OptionError, match=f"{where}: .*{why}"):
                application(ClusterSettings(home=where, models=[{"name": "builtin/emoji"}]))
