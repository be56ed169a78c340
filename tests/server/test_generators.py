"""Sessions on maps of labels and on small pictures, over the API."""

import io
import threading

import numpy as np
import pytest
from PIL import Image

from pipelines import picture
from retouch.server.limits import Limits
from retouch.server.sessions import source_in
from retouch.server.tasks import Question
from retouch.server.waiting import using
from studios import asking, editor, idle, page, png, settings, studio, until

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

HEIGHT, WIDTH, COUNT = 64, 128, 5


def street():
    blocks = np.random.default_rng(0).integers(0, COUNT, (HEIGHT // 16, WIDTH // 16))
    return blocks.repeat(16, 0).repeat(16, 1).astype(np.uint8)


def things():
    """More of them than a byte counts."""
    return np.arange(HEIGHT * WIDTH // 16).reshape(HEIGHT // 4, WIDTH // 4).repeat(4, 0).repeat(4, 1).astype(np.uint16)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return studio(tmp_path_factory.mktemp("home"), names=("labels", "upscale", "ddpm"))


@pytest.fixture(scope="module")
def client(made):
    with asking(made) as client:
        yield client


@pytest.fixture(scope="module")
def colours(client):
    """Of labels."""
    labels = client.get("/api/models").json()[0]["capabilities"]["labels"]
    assert [label["index"] for label in labels] == list(range(COUNT))
    return [tuple(bytes.fromhex(label["colour"][1:])) for label in labels]


def opened(client, model, pixels, **files):
    reply = client.post(
        "/api/sessions",
        data=settings(model=f"tiny/{model}"),
        files={"picture": ("x.png", png(pixels)), **{name: ("i.png", png(data)) for name, data in files.items()}},
    )
    assert reply.status_code == 202, reply.text
    id_ = reply.json()["id"]
    assert idle(client, id_)["head"] == 0
    return id_


def square(colour, size=6):
    return png(np.full((size, size, 4), (*colour, 255), np.uint8))


def sent(client, id_, base, overlay, rect=(30, 10, 6, 6), **given):
    return client.post(
        f"/api/sessions/{id_}/edits",
        data=settings(base=base, rect=list(rect), **given),
        files={"overlay": ("o.png", overlay)},
    )


def image(client, id_, version, query=""):
    reply = client.get(f"/api/sessions/{id_}/versions/{version}.png{query}")
    assert reply.status_code == 200, reply.text
    return np.asarray(Image.open(io.BytesIO(reply.content)))


def instances(client, id_, version):
    reply = client.get(f"/api/sessions/{id_}/versions/{version}/instances.png")
    assert reply.status_code == 200, reply.text
    return np.asarray(Image.open(io.BytesIO(reply.content))).astype(int) @ [1, 256, 65536]


def put_away(client):
    client.app.app.app.state.studio.pool.shrink(0)


def check_times(client, id_):
    """Of the layers of the last edit."""
    (network,) = client.get(f"/api/sessions/{id_}/explain?timed=true").json()["networks"]
    assert all(layer["milliseconds"] > 0 for layer in network["layers"] if layer["macs"])
    assert 0 < network["macs"] <= network["dense_macs"]


def test_a_map_of_labels_in_a_file_is_read_as_its_ids(made, tmp_path):
    (tmp_path / "street.png").write_bytes(png(street()))
    assert np.array_equal(source_in(editor("labels"), tmp_path / "street.png"), street())


def test_labels_are_painted_in_their_colours(client, colours):
    id_ = opened(client, "labels", street())
    assert sent(client, id_, 0, square(colours[3])).status_code == 202
    found = idle(client, id_)
    assert (found["kind"], found["size"], found["head"]) == ("labels", [HEIGHT, WIDTH], 1)
    assert found["capabilities"]["instances"] is False
    check_times(client, id_)
    drawn = street()
    drawn[10:16, 30:36] = 3
    expected = editor("labels").open(street())
    expected.edit(drawn)
    assert np.array_equal(image(client, id_, 1), expected.pixels)
    shown = np.array(colours, np.uint8)[drawn]
    for _ in range(2):
        assert np.array_equal(image(client, id_, 1, "?input"), shown)
        assert np.array_equal(image(client, id_, 0, "?input"), np.array(colours, np.uint8)[street()])
        put_away(client)


def test_what_is_painted_becomes_a_new_instance_or_one_that_is_there(client, colours):
    id_ = opened(client, "labels", street(), instances=things())
    assert client.get(f"/api/sessions/{id_}").json()["capabilities"]["instances"] is True
    assert np.array_equal(instances(client, id_, 0), things())
    drawn, ids = street(), things().astype(np.int32)
    expected = editor("labels").open(drawn, instances=ids)
    for number, (left, given, becomes) in enumerate([(30, {}, ids.max() + 1), (60, {"instance": 300}, 300)]):
        reply = sent(client, id_, number, square(colours[2]), (left, 10, 6, 6), **given)
        assert reply.status_code == 202, reply.text
        assert idle(client, id_)["head"] == number + 1
        drawn[10:16, left : left + 6], ids[10:16, left : left + 6] = 2, becomes
        expected.edit(drawn, instances=ids)
        assert np.array_equal(image(client, id_, number + 1), expected.pixels)
        assert np.array_equal(instances(client, id_, number + 1), ids)
    put_away(client)
    assert np.array_equal(instances(client, id_, 0), things())
    assert np.array_equal(instances(client, id_, 2), ids)


def test_strokes_that_meet_in_one_version_are_instances_of_their_own(client, colours):
    id_ = opened(client, "labels", street(), instances=things())
    device = client.app.app.app.state.studio.pool.find("anna", id_).session.worker
    gate = threading.Event()
    device.submit("another session", Question(gate.wait), join=False)
    for left in (30, 36):
        assert sent(client, id_, 0, square(colours[2]), (left, 10, 6, 6)).status_code == 202
    gate.set()
    assert len(idle(client, id_)["tree"]) == 2
    found = instances(client, id_, 1)
    most = int(things().max())
    assert (found[10:16, 30:36] == most + 1).all()
    assert (found[10:16, 36:42] == most + 2).all()


def test_a_draft_of_labels_gives_way_to_the_edit(client, colours):
    id_ = opened(client, "labels", street(), instances=things())
    with page(client, id_, size=(HEIGHT, WIDTH)) as here:
        jobs = [
            sent(client, id_, 0, square(colours[label]), (left, 10, 6, 6), draft=draft).json()["job"]
            for label, left, draft in ((1, 30, True), (1, 30, False))
        ]
        assert here.done(jobs[1])["state"] == "done"
    assert len(idle(client, id_)["tree"]) == 2


def test_what_no_map_of_labels_takes(client, colours):
    plain = opened(client, "labels", street())
    refused = [
        sent(client, plain, 0, square((1, 2, 3))),
        sent(client, plain, 0, square(colours[1]), instance=3),
        sent(client, plain, 0, square(colours[1]), instance=2**24),
        sent(client, plain, 0, square(colours[1]), kind="inpaint"),
        sent(client, plain, 0, square(colours[1]), draft=True, instance=-1),
        client.post(f"/api/sessions/{plain}/variants", data=settings(base=0), files={"overlay": square(colours[1])}),
        client.post(f"/api/sessions/{plain}/edits", data=settings(base=0, prompt="red")),
    ]
    files = {"picture": png(street()), "instances": png(things()[:32])}
    refused.append(client.post("/api/sessions", data=settings(model="tiny/labels"), files=files))
    files = {"picture": png(picture("ddpm")), "instances": png(things())}
    refused.append(client.post("/api/sessions", data=settings(model="tiny/ddpm"), files=files))
    unknown = street()
    unknown[3, 3] = COUNT
    refused.append(client.post("/api/sessions", data=settings(model="tiny/labels"), files={"picture": png(unknown)}))
    assert [reply.status_code for reply in refused] == [422] * len(refused), [reply.text for reply in refused]
    damaged = {"picture": png(street()), "instances": png(things())[:60]}
    assert client.post("/api/sessions", data=settings(model="tiny/labels"), files=damaged).status_code == 415
    assert client.get(f"/api/sessions/{plain}/versions/0/instances.png").status_code == 404
    assert len(idle(client, plain)["tree"]) == 1


def test_the_small_and_the_large_picture_before_and_after(client):
    small = picture("ddpm")
    id_ = opened(client, "upscale", small)
    assert sent(client, id_, 0, square((255, 0, 40)), (14, 9, 6, 6)).status_code == 202
    found = idle(client, id_)
    assert (found["kind"], found["size"], found["capabilities"]["scale"]) == ("upscale", [128, 128], 4)
    check_times(client, id_)
    expected, drawn = editor("upscale").open(small), small.copy()
    drawn[9:15, 14:20] = (255, 0, 40)
    for _ in range(2):
        assert np.array_equal(image(client, id_, 0, "?input"), small)
        assert np.array_equal(image(client, id_, 0), expected.pixels)
        put_away(client)
    expected.edit(drawn)
    for _ in range(2):
        assert np.array_equal(image(client, id_, 1, "?input"), drawn)
        assert np.array_equal(image(client, id_, 1), expected.pixels)
        put_away(client)
    thumb = image(client, id_, 1, "?thumb&input")
    assert thumb.shape == (32, 32, 3)


def test_a_page_of_an_upscaler_is_brought_to_large_pixels(client):
    id_ = opened(client, "upscale", picture("ddpm", 1))
    with page(client, id_, size=(128, 128)) as here:
        here.hear(lambda m: m.get("kind") == "picture")
        job = sent(client, id_, 0, square((255, 0, 40)), (14, 9, 6, 6), draft=True).json()["job"]
        frame = here.hear(lambda m: m.get("kind") == "preview")
        assert frame["rect"][0] <= 4 * 14 < 4 * 20 <= frame["rect"][0] + frame["rect"][2]
        assert here.done(job)["state"] == "done"
        assert np.array_equal(here.picture, image(client, id_, 0))
        job = sent(client, id_, 0, square((255, 0, 40)), (14, 9, 6, 6)).json()["job"]
        assert here.done(job)["state"] == "done"
        assert np.array_equal(here.picture, image(client, id_, 1))


def test_a_small_picture_that_would_become_too_large(tmp_path):
    with asking(studio(tmp_path, Limits(pixels=1000), names=("upscale",))) as client:
        reply = client.post("/api/sessions", data=settings(), files={"picture": png(picture("ddpm"))})
        assert reply.status_code == 413


@pytest.mark.parametrize(("model", "source"), [("labels", street), ("upscale", lambda: picture("ddpm"))])
def test_what_recording_takes_is_told_before(client, made, model, source):
    """As nothing is told between its begin and its end."""
    first = client.post("/api/sessions", data=settings(model="tiny/ddpm", generate=True, steps=2)).json()["id"]
    idle(client, first)
    with using(made, made.pool.find("anna", first)) as session:
        held = threading.Event()
        blocking = session.start(Question(held.wait))
        told = client.post(
            "/api/sessions", data=settings(model=f"tiny/{model}"), files={"picture": ("x.png", png(source()))}
        ).json()
        address = f"/api/sessions/{told['id']}"
        until(lambda: client.get(f"{address}/jobs/{told['job']}").json()["seconds"] > 0)
        held.set()
        blocking.result(60)
    idle(client, told["id"])
