"""Sessions over the API: made, edited, moved, listed, deleted."""

import io
import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from pipelines import painted, picture
from retouch.server.limits import Limits
from studios import (
    BEARER,
    OTHER,
    asked_for,
    asking,
    created,
    edited,
    editor,
    idle,
    keyed,
    lay,
    parsed,
    pixels,
    png,
    settings,
    stroke,
    studio,
)

RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with asking(studio(tmp_path_factory.mktemp("home"))) as client:
        yield client


@pytest.fixture
def session(client):
    """A session with one edit, at it; deleted afterwards."""
    id_ = created(client)
    assert edited(client, id_, 0).status_code == 202
    assert idle(client, id_)["head"] == 1
    yield id_
    client.delete(f"/api/sessions/{id_}")


def problem(reply, status):
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    found = reply.json()
    assert found["status"] == status
    return found


def test_an_edit_equals_that_of_the_library(client, session):
    found = idle(client, session)
    assert [v["parent"] for v in found["tree"]] == [None, 0]
    expected = editor().open(picture("ddpm"), steps=2, strength=1.0)
    expected.edit(painted(expected.pixels))
    assert np.array_equal(pixels(client, session, 1), expected.pixels)
    assert np.array_equal(pixels(client, session, 0), picture("ddpm"))
    edit = found["tree"][1]
    assert 0 < edit["share"] < 1 < edit["saved"]
    assert edit["seconds"] > 0
    assert found["bytes"] > 0


def test_the_facts_of_a_session(client, session):
    found = client.get(f"/api/sessions/{session}").json()
    assert (found["id"], found["kind"], found["model"], found["size"]) == (session, "diffusion", "tiny/ddpm", [32, 32])
    assert found["settings"]["steps"] == 2
    assert found["capabilities"]["inpaint"]
    assert found["capabilities"]["scale"] == 1
    first = client.get("/api/sessions").json()[0]
    assert (first["id"], first["head"], first["versions"]) == (session, 1, 2)
    thumb = client.get("/" + first["thumb"])
    assert thumb.headers["content-type"] == "image/jpeg"
    models = client.get("/api/models").json()
    assert [(m["name"], m["kind"], m["size"]) for m in models] == [("tiny/ddpm", "diffusion", [32, 32])]


def test_undo_branches_and_names(client, session):
    reply = client.post(f"/api/sessions/{session}/head", json={"version": 0})
    header, data = parsed(reply.content)
    assert (header["kind"], header["version"], header["encoding"]) == ("head", 0, "png")
    now = pixels(client, session, 1).copy()
    lay(now, header["rect"], data)
    assert np.array_equal(now, pixels(client, session, 0))
    assert edited(client, session, 0, left=2, top=20).status_code == 202
    found = idle(client, session)
    assert [(v["version"], v["parent"]) for v in found["tree"]] == [(0, None), (1, 0), (2, 0)]
    assert client.post(f"/api/sessions/{session}/versions/1/name", json={"name": " red "}).status_code == 204
    assert idle(client, session)["tree"][1]["name"] == "red"
    problem(client.post(f"/api/sessions/{session}/head", json={"version": 7}), 409)
    problem(client.post(f"/api/sessions/{session}/versions/7/name", json={"name": "x"}), 409)


def test_a_stale_base_is_told_the_head(client, session):
    assert problem(edited(client, session, 0), 409)["head"] == 1
    assert idle(client, session)["head"] == 1


def test_an_edit_that_is_sent_twice_counts_once(client, session):
    for _ in range(2):
        assert keyed(client, session, "k", 1).status_code == 202
    idle(client, session)
    assert keyed(client, session, "k", 1).status_code == 202  # though the base is stale by now
    assert len(idle(client, session)["tree"]) == 3


def test_a_session_that_is_asked_for_twice_is_made_once(client):
    made = asked_for(client, "s").json()
    assert asked_for(client, "s").json() == made
    client.delete(f"/api/sessions/{made['id']}")


def test_a_generated_session(client):
    reply = client.post("/api/sessions", data=settings(generate=True, steps=2, seed=3))
    assert reply.status_code == 202, reply.text
    id_ = reply.json()["id"]
    assert idle(client, id_)["tree"][0]["edit"] == "generated"
    expected = editor().generate(steps=2, seed=3)
    assert np.array_equal(pixels(client, id_, 0), expected.pixels)
    client.delete(f"/api/sessions/{id_}")


def test_inpainting_and_a_mask(client, session):
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6, 2:6] = 255
    reply = client.post(
        f"/api/sessions/{session}/edits",
        data=settings(base=1, rect=[4, 4, 8, 8], kind="inpaint", refine=False),
        files={"mask": ("m.png", png(mask))},
    )
    assert reply.status_code == 202, reply.text
    assert idle(client, session)["tree"][2]["edit"] == "inpaint"
    expected = editor().open(picture("ddpm"), steps=2, strength=1.0)
    expected.edit(painted(expected.pixels))
    whole = np.zeros((32, 32), np.uint8)
    whole[4:12, 4:12] = mask
    expected.inpaint(whole)
    assert np.array_equal(pixels(client, session, 2), expected.pixels)


@pytest.mark.parametrize(
    ("given", "files", "status"),
    [
        ({"rect": [30, 30, 5, 5]}, {"overlay": stroke()}, 422),
        ({"rect": [0, 0, 4, 5]}, {"overlay": stroke()}, 422),
        ({"rect": [0, 0, 5]}, {"overlay": stroke()}, 422),
        ({"rect": [0, 0, 5, 5], "strength": 2}, {"overlay": stroke()}, 422),
        ({"rect": [0, 0, 5, 5], "unknown": 2}, {"overlay": stroke()}, 422),
        ({"rect": [0, 0, 5, 5], "refine": "much"}, {"overlay": stroke()}, 422),
        ({"rect": [0, 0, 5, 5], "prompt": "x" * 3000}, {"overlay": stroke()}, 422),
        ({"rect": [0, 0, 5, 5]}, {"overlay": b"GIF89a"}, 415),
        ({"rect": [0, 0, 5, 5]}, {"overlay": stroke()[:50]}, 415),
        ({"rect": [0, 0, 5, 5]}, {"overlay": stroke(colour=(9, 9, 9, 0))}, 422),
        ({"rect": [0, 0, 5, 5], "kind": "inpaint"}, {}, 422),
        ({}, {}, 422),
        ({"base": -1}, {}, 422),
    ],
)
def test_edits_that_cannot_be_are_refused_and_change_nothing(client, session, given, files, status):
    files = {name: ("x.png", data) for name, data in files.items()}
    reply = client.post(f"/api/sessions/{session}/edits", data=settings(**{"base": 1, **given}), files=files or None)
    problem(reply, status)
    assert len(idle(client, session)["tree"]) == 2


def test_settings_that_are_no_json(client, session):
    for text in ("{", "[]", "null", '{"base": 1e999}', "\udcff".encode("utf-8", "surrogatepass").decode("latin-1")):
        problem(client.post(f"/api/sessions/{session}/edits", data={"settings": text}), 422)


def test_variants_become_branches(client, session):
    reply = client.post(
        f"/api/sessions/{session}/variants",
        data=settings(base=1, rect=[2, 20, 5, 5], n=3, seed=5),
        files={"overlay": ("o.png", stroke())},
    )
    assert reply.status_code == 202, reply.text
    found = idle(client, session)
    assert [v["parent"] for v in found["tree"]] == [None, 0, 1, 1, 1]
    assert found["head"] == 4
    assert [v["seed"] for v in found["tree"][2:]] == [7, 6, 5]
    expected = editor().open(picture("ddpm"), steps=2, strength=1.0)
    expected.edit(painted(expected.pixels))
    assert len({pixels(client, session, number).tobytes() for number in (2, 3, 4)}) == 3
    made = expected.variants(3, painted(expected.pixels, 20, 2), seeds=[5, 6, 7])
    assert np.array_equal(pixels(client, session, 4), np.asarray(made.images[0]))


def test_words_alone_go_only_with_models_that_read_them(client, session):
    reply = client.post(f"/api/sessions/{session}/edits", data=settings(base=1, prompt="red"))
    assert "text" in problem(reply, 422)["detail"] or "prompt" in reply.text or "words" in reply.text


def test_deleting_forgets_the_folder_and_stops_what_is_computed(client, tmp_path):
    id_ = created(client)
    edited(client, id_, 0)
    assert client.delete(f"/api/sessions/{id_}").status_code == 204
    for reply in (client.get(f"/api/sessions/{id_}"), client.delete(f"/api/sessions/{id_}"), edited(client, id_, 0)):
        problem(reply, 404)
    home = client.app.app.app.state.studio.pool.home.folder
    assert not list(home.rglob(id_))


def test_jobs_are_cancelled_once(client, session):
    job = edited(client, session, 1).json()["job"]
    first = client.delete(f"/api/sessions/{session}/jobs/{job}").status_code
    assert first in (204, 409)
    idle(client, session)
    problem(client.delete(f"/api/sessions/{session}/jobs/{job}"), 409) if first == 409 else None
    problem(client.delete(f"/api/sessions/{session}/jobs/99"), 404)


def test_another_caller_sees_nothing_of_it(client, session):
    client.headers.update(OTHER)
    try:
        assert client.get("/api/sessions").json() == []
        for reply in (
            client.get(f"/api/sessions/{session}"),
            client.get(f"/api/sessions/{session}/versions/0.png"),
            client.get(f"/api/sessions/{session}/archive"),
            client.get(f"/api/sessions/{session}/explain"),
            client.delete(f"/api/sessions/{session}"),
            client.post(f"/api/sessions/{session}/head", json={"version": 0}),
            edited(client, session, 1),
        ):
            problem(reply, 404)
    finally:
        client.headers.update(BEARER)
    assert idle(client, session)["head"] == 1


def test_an_owner_goes_on_after_others_asked_for_the_session(tmp_path):
    with asking(studio(tmp_path, Limits(wait=0.2))) as client:
        id_ = created(client)
        assert client.get(f"/api/sessions/{id_}", headers=OTHER).status_code == 404
        assert edited(client, id_, 0).status_code == 202
        assert idle(client, id_)["head"] == 1


def test_the_png_carries_its_settings_and_other_formats_are_there(client, session):
    image = Image.open(io.BytesIO(client.get(f"/api/sessions/{session}/versions/1.png").content))
    told = json.loads(image.text["retouch"])
    assert (told["model"], told["steps"], told["edit"]) == ("tiny/ddpm", 2, "edit")
    webp = Image.open(io.BytesIO(client.get(f"/api/sessions/{session}/versions/1.png?format=webp").content))
    assert np.array_equal(np.asarray(webp), np.asarray(image))
    for kind in ("jpeg", "webp"):
        made = client.get(f"/api/sessions/{session}/versions/1.png?format={kind}&quality=50")
        small = Image.open(io.BytesIO(made.content))
        assert small.format == kind.upper()
        assert not np.array_equal(np.asarray(small), np.asarray(image))
        (found,) = ET.fromstring(small.info["xmp"]).iter(f"{RDF}Description")
        assert json.loads(found.attrib["{urn:retouch:}settings"]) == told
    problem(client.get(f"/api/sessions/{session}/versions/9.png"), 404)
    problem(client.get(f"/api/sessions/{session}/versions/x.png"), 422)


def test_what_the_last_edit_computed(client, session):
    found = client.get(f"/api/sessions/{session}/explain").json()
    network = found["networks"][0]
    assert (found["version"], network["network"], network["calls"]) == (1, "denoiser", 2)
    assert 0 < network["macs"] < network["dense_macs"]
    fine = max(network["grids"], key=lambda grid: grid["height"])
    assert (fine["height"], fine["width"]) == (32, 32)
    assert 25 <= fine["active"] < 1024
    assert any(0 < layer["rows"] < layer["of"] for layer in network["layers"])
    assert network["macs"] == sum(layer["macs"] for layer in network["layers"])
    assert all(layer["milliseconds"] is None for layer in network["layers"])
    heavy = max(network["layers"], key=lambda layer: layer["macs"])
    assert heavy["predicted_milliseconds"] > 0


def test_the_last_edit_is_timed_layer_by_layer(client, session):
    before = pixels(client, session, 1)
    found = client.get(f"/api/sessions/{session}/explain?timed=true").json()
    layers = found["networks"][0]["layers"]
    assert all(layer["milliseconds"] >= 0 for layer in layers)
    computed = [layer for layer in layers if layer["macs"]]
    assert computed
    assert all(layer["milliseconds"] > 0 for layer in computed)
    assert sum(layer["milliseconds"] for layer in layers) < 1000 * found["seconds"]["total"] + 1000
    assert np.array_equal(pixels(client, session, 1), before)
    assert edited(client, session, 1).status_code == 202  # from what it was
    assert idle(client, session)["head"] == 2


def test_the_estimate_of_the_last_edit(client, session):
    found = client.get(f"/api/sessions/{session}/versions/1/error")
    assert found.status_code == 200, found.text
    assert found.json()["error"] >= 0
    assert client.get(f"/api/sessions/{session}").json()["tree"][1]["estimate"] == found.json()["error"]
    assert client.get(f"/api/sessions/{session}/versions/0/error").json()["error"] is None


def test_pictures_are_cropped_to_what_the_model_divides(client):
    odd = np.zeros((37, 43, 3), np.uint8)
    reply = client.post("/api/sessions", data=settings(steps=1, strength=1.0), files={"picture": ("x", png(odd))})
    id_ = reply.json()["id"]
    height, width = idle(client, id_)["size"]
    assert (37 - height) < 8
    assert (43 - width) < 8
    client.delete(f"/api/sessions/{id_}")


@pytest.mark.parametrize(
    ("given", "picture_", "status"),
    [
        ({"model": "no/model"}, png(picture("ddpm")), 422),
        ({"model": "../../etc/passwd"}, png(picture("ddpm")), 422),
        ({"generate": True}, png(picture("ddpm")), 422),
        ({}, None, 422),
        ({"steps": 0}, png(picture("ddpm")), 422),
        ({"prompt": "red"}, b"", 415),
        ({}, b"\x80\x04\x95", 415),
        ({"generate": True, "size": [7, 32]}, None, 422),
        ({"generate": True, "size": [8000, 8000]}, None, 413),
    ],
)
def test_sessions_that_cannot_be_are_refused_and_leave_nothing(client, given, picture_, status):
    before = len(client.get("/api/sessions").json())
    files = None if picture_ is None else {"picture": ("../../x.png", picture_)}
    problem(client.post("/api/sessions", data=settings(**given), files=files), status)
    assert len(client.get("/api/sessions").json()) == before


def test_the_number_of_sessions_of_a_caller_is_limited(tmp_path):
    with asking(studio(tmp_path, Limits(sessions=1))) as client:
        created(client)
        reply = client.post("/api/sessions", data=settings(steps=1), files={"picture": ("x.png", png(picture("ddpm")))})
        problem(reply, 429)
        assert int(reply.headers["retry-after"]) > 0
        client.headers.update(OTHER)
        created(client)


def test_the_jobs_of_a_caller_are_limited(tmp_path):
    with asking(studio(tmp_path, Limits(jobs=0))) as client:
        reply = client.post("/api/sessions", data=settings(steps=1), files={"picture": ("x.png", png(picture("ddpm")))})
        problem(reply, 429)
        assert client.get("/api/sessions").json() == []


def test_what_is_unknown_is_a_problem_too(client):
    problem(client.get("/api/none"), 404)
    problem(client.put("/api/sessions"), 405)
    problem(client.get("/static/../../pyproject.toml"), 404)
    problem(client.get("/static/%2e%2e/%2e%2e/app.py"), 404)


def test_metrics_count_without_names(client, session):
    text = client.get("/metrics").text
    assert 'route="/api/sessions/{id}/edits"' in text
    assert "retouch_open_sessions" in text
    assert session not in text
    assert client.get("/healthz").json() == {"status": "ok"}
