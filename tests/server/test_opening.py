"""Sessions whose networks are not compiled yet: the request is answered at once, and told of what goes on."""

import threading

import numpy as np
import pytest
from starlette.websockets import WebSocketDisconnect

from pipelines import picture, pipeline
from retouch import Editor
from retouch.editing.diffusion.model import Model, PipelineError
from retouch.server.limits import Limits
from retouch.server.models import Models
from retouch.server.security import Access
from retouch.server.studio import Studio
from studios import PORT, TOKENS, asking, edited, idle, page, pixels, png, settings, until

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
CANVAS, SESSION = "canvas", "diffusion"
SIZES = {CANVAS: (90, 130), SESSION: (32, 32)}


class Held:
    """Compiling waits until it is let `go`; `begun` when it has begun. error: what it ends with."""

    def __init__(self, monkeypatch):
        self.begun, self.go, self.error = threading.Event(), threading.Event(), None
        compiled = Model.compile

        def compile_(model, *args, **kwargs):
            model._compiling.tell()
            self.begun.set()
            assert self.go.wait(60)
            if self.error:
                raise self.error
            return compiled(model, *args, **kwargs)

        monkeypatch.setattr(Model, "compile", compile_)


@pytest.fixture
def held(monkeypatch):
    made = Held(monkeypatch)
    yield made
    made.go.set()


@pytest.fixture
def made(tmp_path):
    """A studio with a model that has compiled nothing yet."""
    models = Models({"tiny/ddpm": Editor(pipeline("ddpm"), policy="fast", name="tiny/ddpm")})
    return Studio(models, tmp_path, Access(PORT, tokens=TOKENS), Limits(wait=0.5))


@pytest.fixture
def client(made):
    with asking(made) as client:
        yield client


def source(kind):
    height, width = SIZES[kind]
    return np.tile(picture("ddpm"), (3, 5, 1))[:height, :width]


def begun(client, kind, **given):
    form = settings(**{"steps": 2, "strength": 1.0, **given})
    reply = client.post("/api/sessions", data=form, files={"picture": ("x.png", png(source(kind)))})
    assert reply.status_code == 202, reply.text
    return reply.json()


def ended():
    """No session is being made any more."""
    until(lambda: all(thread.name != "retouch opening" for thread in threading.enumerate()))


@pytest.mark.parametrize("kind", [CANVAS, SESSION])
def test_the_reply_comes_before_networks_are_compiled(client, held, kind):
    told = begun(client, kind)
    assert (told["kind"], told["state"]) == (kind, "opening")
    assert held.begun.wait(60)
    facts = client.get(f"/api/sessions/{told['id']}").json()
    assert (facts["kind"], facts["state"], facts["size"]) == (kind, "opening", [*SIZES[kind]])
    assert (facts["tree"], facts["settings"]["strength"], facts["capabilities"]["canvas"]) == ([], 1.0, kind == CANVAS)
    until(lambda: "total" in client.get(f"/api/sessions/{told['id']}").json()["jobs"][0])
    (job,) = client.get(f"/api/sessions/{told['id']}").json()["jobs"]
    assert job.pop("total") > 1
    assert job.pop("done") < 1
    assert job == {
        "job": told["job"],
        "kind": "open",
        "state": "running",
        "seconds": 0,
        "text": "preparing the networks",
    }
    assert [each["id"] for each in client.get("/api/sessions").json()] == [told["id"]]
    with page(client, told["id"], size=SIZES[kind]) as here:
        here.hear(lambda m: m.get("kind") == "picture")
        assert np.array_equal(here.picture, source(kind))
        held.go.set()
        assert here.done(told["job"])["state"] == "done"
        (tree,) = [event for event in here.events if event.get("event") == "tree"]
        assert [each["version"] for each in tree["tree"]] == [0]
    found = idle(client, told["id"])
    assert (found["state"], found["kind"], found["head"]) == ("open", kind, 0)
    assert np.array_equal(pixels(client, told["id"], 0), source(kind))
    assert edited(client, told["id"], 0).status_code == 202
    assert idle(client, told["id"])["head"] == 1


def test_progress_is_told_in_modules(client, held):
    told = begun(client, CANVAS)
    with page(client, told["id"], size=SIZES[CANVAS]) as here:
        here.hear(lambda m: m.get("kind") == "picture")
        held.go.set()
        here.done(told["job"])
    total = sum(1 for _ in client.app.app.app.state.studio.models.editors["tiny/ddpm"].model.denoiser.modules())
    told = [event for event in here.events if event.get("event") == "progress"]
    assert (total, "preparing the networks") in {(event["total"], event["text"]) for event in told}


@pytest.mark.parametrize("kind", [CANVAS, SESSION])
@pytest.mark.parametrize("how", ["job", "session"])
def test_what_is_stopped_meanwhile_leaves_nothing(client, made, held, kind, how):
    told = begun(client, kind)
    assert held.begun.wait(60)
    address = f"/api/sessions/{told['id']}"
    with page(client, told["id"], size=SIZES[kind]) as here:
        here.hear(lambda m: m.get("kind") == "picture")
        stopped = client.delete(f"{address}/jobs/{told['job']}" if how == "job" else address)
        assert stopped.status_code == 204
        with pytest.raises(WebSocketDisconnect) as closed:
            here.hear(lambda m: False)
        assert closed.value.code == 4404
    if how == "job":
        assert here.events[-1]["state"] == "cancelled"
    assert client.get(address).status_code == 404
    held.go.set()
    ended()
    assert made.pool.load() == (0, 0)
    assert not [*made.pool.home.folder.rglob(told["id"])]


def test_what_fails_is_told_and_leaves_nothing(client, made, held):
    held.error = PipelineError("it has no size")
    told = begun(client, CANVAS)
    with page(client, told["id"], size=SIZES[CANVAS]) as here:
        held.go.set()
        failed = here.done(told["job"])
        assert (failed["state"], failed["error"]["status"]) == ("failed", 422)
        assert "no size" in failed["error"]["detail"]
        with pytest.raises(WebSocketDisconnect):
            here.hear(lambda m: False)
    assert client.get(f"/api/sessions/{told['id']}").status_code == 404
    assert not [*made.pool.home.folder.rglob(told["id"])]


def test_a_page_hears_what_failed_while_it_connected(client, made, held, monkeypatch):
    held.error = PipelineError("it has no size")
    told = begun(client, CANVAS)

    def settle(entry):
        held.go.set()
        ended()

    monkeypatch.setattr(made.pool, "settle", settle)
    with page(client, told["id"], size=SIZES[CANVAS]) as here:
        assert here.done(told["job"])["state"] == "failed"


def test_a_server_that_ends_meanwhile_leaves_nothing(made, held):
    with asking(made) as client:
        told = begun(client, CANVAS)
        assert held.begun.wait(60)
    held.go.set()
    ended()
    assert not [*made.pool.home.folder.rglob(told["id"])]
