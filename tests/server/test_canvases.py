"""Pictures of any size: opened, edited in viewports, looked at, made larger; only what changed travels."""

import io
import json
import time

import numpy as np
import pytest
from PIL import Image

from pipelines import picture
from retouch.server.limits import Limits
from studios import BEARER, HOST, asking, edited, editor, idle, lay, parsed, pixels, png, settings, stroke, studio

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
STEPS = {"steps": 2, "strength": 1.0}
HEIGHT, WIDTH = 90, 130


def photograph(height=HEIGHT, width=WIDTH, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (-(-height // 10), -(-width // 10), 3), np.uint8)
    return coarse.repeat(10, 0).repeat(10, 1)[:height, :width]


def opened(client, source=None, **given):
    """The id of a canvas."""
    source = png(photograph()) if source is None else source
    reply = client.post("/api/sessions", data=settings(**{**STEPS, **given}), files={"picture": ("x.png", source)})
    assert reply.status_code == 202, reply.text
    idle(client, reply.json()["id"])
    return reply.json()["id"]


def expanded(client, id_, base, **sides):
    return client.post(f"/api/sessions/{id_}/expand", json={"base": base, **sides})


class Buffer:
    """What a page holds of a canvas, from its messages."""

    def __init__(self, socket):
        self.socket, self.picture, self.version, self.area, self.events, self.kinds = socket, None, None, 0, [], []

    def hear(self, until):
        while True:
            message = self.socket.receive()
            found = self.told(json.loads(message["text"])) if message.get("text") else self.take(message["bytes"])
            if until(found):
                return found

    def told(self, event):
        self.events.append(event)
        return event

    def take(self, data):
        header, body = parsed(data)
        self.area += header["rect"][2] * header["rect"][3]
        self.kinds.append(header["kind"])
        if header["kind"] == "preview":
            return header
        if header.get("size"):
            old, self.picture = self.picture, np.zeros((*header["size"], 3), np.uint8)
            if header["moved"]:
                place(self.picture, old, *header["moved"])
        if body:
            lay(self.picture, header["rect"], body)
        self.version = header["version"]
        return header

    def done(self, job):
        return self.hear(lambda m: m.get("job") == job and m.get("state") in ("done", "failed", "cancelled"))


def place(picture, old, left, top):
    """Put the old picture into the new one, cut where it does not fit."""
    height, width = picture.shape[:2]
    rows = slice(max(top, 0), min(top + old.shape[0], height))
    columns = slice(max(left, 0), min(left + old.shape[1], width))
    picture[rows, columns] = old[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]


def watching(client, id_, seen=None):
    query = "" if seen is None else f"?seen={seen}"
    return client.websocket_connect(f"ws://{HOST}/api/sessions/{id_}/live{query}", headers=BEARER)


def test_a_picture_of_another_size_is_edited_in_viewports(client):
    id_ = opened(client)
    found = idle(client, id_)
    assert (found["kind"], found["size"], found["tree"][0]["viewport"]) == ("canvas", [HEIGHT, WIDTH], None)
    able = found["capabilities"]
    assert (able["canvas"], able["inpaint"], able["variants"], able["areas"]) == (True, True, True, False)
    assert np.array_equal(pixels(client, id_, 0), photograph())
    assert edited(client, id_, 0, 60, 40, 12).status_code == 202
    found = idle(client, id_)
    assert found["head"] == 1
    viewport = found["tree"][1]["viewport"]
    left, top, width, height = viewport["rect"]
    assert left <= 60 < 72 <= left + width
    assert top <= 40 < 52 <= top + height
    assert viewport["way"] in ("new", "dense", "whole", "tiles")
    after = pixels(client, id_, 1)
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[top : top + height, left : left + width] = True
    assert (after != photograph()).any()
    assert np.array_equal(after[~inside], photograph()[~inside])


@pytest.mark.parametrize(
    ("size", "given", "kind"),
    [
        ((32, 32), {}, "diffusion"),
        ((32, 48), {}, "diffusion"),  # one and a half times as many pixels
        ((24, 24), {}, "diffusion"),
        ((40, 40), {}, "canvas"),  # more
        ((16, 24), {}, "canvas"),  # less than half
        ((32, 41), {}, "canvas"),  # the network does not divide it
        ((40, 40), {"canvas": False}, "diffusion"),
        ((32, 32), {"canvas": True}, "canvas"),
    ],
)
def test_pictures_that_a_model_takes_whole_and_who_asks_for_it_get_a_session(client, size, given, kind):
    form = settings(**{**STEPS, **given})
    reply = client.post("/api/sessions", data=form, files={"picture": ("x.png", png(photograph(*size)))})
    assert reply.json()["kind"] == kind
    found = idle(client, reply.json()["id"])
    assert (found["kind"], found["size"]) == (kind, [*size])


def test_only_what_changed_travels_and_pages_hold_the_exact_picture(client):
    id_ = opened(client)
    with watching(client, id_) as socket:
        page = Buffer(socket)
        page.hear(lambda m: m.get("kind") == "picture")
        assert np.array_equal(page.picture, photograph())
        before = page.area
        for number, (left, top) in enumerate(((20, 20), (90, 60))):
            page.done(edited(client, id_, number, left, top, 10).json()["job"])
            assert np.array_equal(page.picture, pixels(client, id_, number + 1))
        assert page.area - before < HEIGHT * WIDTH / 3
        client.post(f"/api/sessions/{id_}/head", json={"version": 0})
        page.hear(lambda m: m.get("kind") == "head" and m["version"] == 0)
        assert (page.version, page.kinds[-1]) == (0, "head")
        assert np.array_equal(page.picture, photograph())
        job = edited(client, id_, 0, 40, 40, 8).json()["job"]
        page.done(job)
        assert np.array_equal(page.picture, pixels(client, id_, 3))
        kept = page.picture
    with watching(client, id_, seen=1) as socket:
        page = Buffer(socket)
        page.picture = pixels(client, id_, 1).copy()
        page.hear(lambda m: m.get("kind") == "picture" and m["version"] == 3)
        assert np.array_equal(page.picture, kept)
    reply = client.get(f"/api/sessions/{id_}/versions/2/difference?since=3")
    page = Buffer(None)
    page.picture, data = kept.copy(), reply.content
    while data:
        header, _ = parsed(data)
        end = 4 + int.from_bytes(data[:4], "little") + header["bytes"]
        page.take(data[:end])
        data = data[end:]
    assert np.array_equal(page.picture, pixels(client, id_, 2))


def test_a_canvas_is_expanded_undone_and_edited_there(client):
    id_ = opened(client)
    with watching(client, id_) as socket:
        page = Buffer(socket)
        page.hear(lambda m: m.get("kind") == "picture")
        reply = expanded(client, id_, 0, left=16, bottom=8)
        assert reply.status_code == 202, reply.text
        page.done(reply.json()["job"])
        found = idle(client, id_)
        assert (found["size"], found["head"]) == ([HEIGHT + 8, WIDTH + 16], 2)
        assert [each["edit"] for each in found["tree"]] == ["opened", "expanded", "edit"]
        assert np.array_equal(page.picture, pixels(client, id_, 2))
        assert np.array_equal(page.picture[: HEIGHT - 16, 32:], photograph()[:-16, 16:])
        for version in (0, 2, 1):
            client.post(f"/api/sessions/{id_}/head", json={"version": version})
            page.hear(lambda m, version=version: m.get("kind") == "head" and m["version"] == version)
            assert np.array_equal(page.picture, pixels(client, id_, version))
            assert idle(client, id_)["size"] == list(page.picture.shape[:2])
    assert expanded(client, id_, 0, left=1).status_code == 409
    assert expanded(client, id_, 1).status_code == 422
    assert expanded(client, id_, 1, right=60000, bottom=60000).status_code == 413


def test_an_expansion_that_is_cancelled_leaves_nothing(client):
    id_ = opened(client, steps=20)
    with watching(client, id_) as socket:
        page = Buffer(socket)
        page.hear(lambda m: m.get("kind") == "picture")
        job = expanded(client, id_, 0, right=64, bottom=64).json()["job"]
        page.hear(lambda m: m.get("kind") == "result")
        assert page.picture.shape == (HEIGHT + 64, WIDTH + 64, 3)
        assert client.delete(f"/api/sessions/{id_}/jobs/{job}").status_code == 204
        assert page.done(job)["state"] == "cancelled"
        assert np.array_equal(page.picture, photograph())
    assert len(idle(client, id_)["tree"]) == 1


def test_what_a_page_looks_at_is_recorded_before_it_is_edited(client):
    id_ = opened(client)

    def look(*rect):
        return client.post(f"/api/sessions/{id_}/view", json={"rect": rect})

    assert look(0, 0, WIDTH, HEIGHT).json() == {"viewport": None, "state": "none"}
    with watching(client, id_) as socket:
        page = Buffer(socket)
        found = look(40, 30, 30, 30).json()
        assert found["state"] == "recording"
        told = page.hear(lambda m: m.get("event") == "viewport" and m["state"] == "recorded")
        assert told["viewport"] == found["viewport"]
        assert look(40, 30, 30, 30).json()["state"] == "recorded"
        assert look(80, 50, 30, 30).json()["state"] == "recording"
        assert look(40, 30, 30, 30).json()["state"] == "recorded"
    left, top, *_ = found["viewport"]["rect"]
    assert edited(client, id_, 0, left + 10, top + 10, 12).status_code == 202
    viewport = idle(client, id_)["tree"][1]["viewport"]
    assert (viewport["way"], viewport["scale"]) == ("sparse", found["viewport"]["scale"])
    told = client.get(f"/api/sessions/{id_}/explain").json()
    assert told["networks"][0]["rect"] == found["viewport"]["rect"]
    assert look(100, 80, 90, 90).status_code == 422


def test_a_draft_is_shown_where_it_is_recorded_and_leaves_nothing(client):
    id_ = opened(client)
    with watching(client, id_) as socket:
        page = Buffer(socket)
        page.hear(lambda m: m.get("kind") == "picture")
        page.done(edited(client, id_, 0, 60, 40, 12, draft=True).json()["job"])
        assert "preview" not in page.kinds
        client.post(f"/api/sessions/{id_}/view", json={"rect": [50, 30, 32, 32]})
        page.hear(lambda m: m.get("event") == "viewport" and m["state"] == "recorded")
        page.done(edited(client, id_, 0, 60, 40, 12, draft=True).json()["job"])
        assert "preview" in page.kinds
    assert len(idle(client, id_)["tree"]) == 1
    assert np.array_equal(pixels(client, id_, 0), photograph())


def test_canvases_survive_the_server_and_travel_as_files(tmp_path):
    with asking(studio(tmp_path)) as client:
        id_ = opened(client)
        edited(client, id_, 0, 20, 20, 10)
        idle(client, id_)
        expanded(client, id_, 1, right=20)
        idle(client, id_)
        versions = [pixels(client, id_, number) for number in range(4)]
    with asking(studio(tmp_path)) as client:
        found = idle(client, id_)
        assert (found["kind"], found["size"], found["head"]) == ("canvas", [HEIGHT, WIDTH + 20], 3)
        assert all(np.array_equal(pixels(client, id_, n), each) for n, each in enumerate(versions))
        for number, each in enumerate(versions):
            thumb = client.get(f"/api/sessions/{id_}/versions/{number}.png?thumb").content
            small = np.asarray(Image.open(io.BytesIO(thumb)))
            assert small.shape == each.shape
            assert np.abs(small.astype(int) - each).mean() < 24  # JPEG
        change = client.get(f"/api/sessions/{id_}/versions/1.png?thumb=change").content
        assert Image.open(io.BytesIO(change)).width < 30
        archive = client.get(f"/api/sessions/{id_}/archive").content
        reply = client.post("/api/archives", files={"archive": ("x.zip", archive)})
        assert reply.status_code == 201, reply.text
        other = reply.json()["id"]
        assert edited(client, other, 3, 100, 50, 10).status_code == 202
        assert idle(client, other)["head"] == 4
        assert np.array_equal(pixels(client, other, 3), versions[3])
        assert idle(client, id_)["head"] == 3


def prepared(client, id_, *rect):
    """The bytes that a canvas takes when a viewport is recorded."""
    end = time.monotonic() + 60
    while client.post(f"/api/sessions/{id_}/view", json={"rect": rect}).json()["state"] != "recorded":
        assert time.monotonic() < end
        time.sleep(0.05)
    return idle(client, id_)["bytes"]


def test_canvases_over_the_budget_are_put_away_and_come_back(tmp_path):
    with asking(studio(tmp_path / "one")) as client:
        nbytes = prepared(client, opened(client), 20, 20, 30, 30)
    with asking(studio(tmp_path / "three", Limits(memory=int(2.5 * nbytes)))) as client:
        ids = [opened(client, png(photograph(seed=seed))) for seed in range(3)]
        for id_ in ids:
            edited(client, id_, 0, 30, 30, 10)
            idle(client, id_)
            prepared(client, id_, 20, 20, 30, 30)
        metrics = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line[0] != "#")
        assert float(metrics["retouch_evictions_total"]) >= 1
        assert float(metrics["retouch_open_bytes"]) <= 2.5 * nbytes
        for seed, id_ in enumerate(ids):
            assert np.array_equal(pixels(client, id_, 0), photograph(seed=seed))
            before = pixels(client, id_, 1)
            edited(client, id_, 1, 100, 60, 10)
            assert idle(client, id_)["head"] == 2
            assert np.array_equal(pixels(client, id_, 2)[20:50, 20:50], before[20:50, 20:50])


def test_files_keep_alpha_depth_and_the_settings(client):
    rgba = np.dstack([photograph(), np.full((HEIGHT, WIDTH), 255, np.uint8)])
    rgba[:10, :10, 3] = 100
    id_ = opened(client, png(rgba))
    edited(client, id_, 0, 60, 40, 12)
    idle(client, id_)
    file = Image.open(io.BytesIO(client.get(f"/api/sessions/{id_}/versions/1.png?file").content))
    assert np.array_equal(np.asarray(file)[..., 3], rgba[..., 3])
    assert np.array_equal(np.asarray(file)[:10, :10, :3], rgba[:10, :10, :3])
    assert json.loads(file.text["retouch"])["model"] == "tiny/ddpm"
    for kind in ("jpeg", "webp"):
        reply = client.get(f"/api/sessions/{id_}/versions/1.png?file&format={kind}")
        found = Image.open(io.BytesIO(reply.content))
        assert found.size == (WIDTH, HEIGHT)
        assert b"tiny/ddpm" in found.info["xmp"]
    lossy = client.get(f"/api/sessions/{id_}/versions/1.png?file&format=webp&quality=60")
    assert [b"VP8L" in each.content[:99] for each in (reply, lossy)] == [True, False]


def planned(canvas, told, **asked):
    """How the library makes an edit in the viewport that a server says it took."""
    left, top, width, height = told["rect"]
    box = slice(top, top + height), slice(left, left + width)
    found = canvas.plan(**asked).candidates
    return next(each for each in found if (each.way, each.viewport.box) == (told["way"], box))


def painted_on(canvas, left, top, size):
    drawn = canvas.pixels
    drawn[top : top + size, left : left + size] = (255, 0, 40)
    return drawn


def test_variants_of_a_canvas_are_those_of_the_library(client):
    id_ = opened(client)
    with watching(client, id_) as socket:
        page = Buffer(socket)
        page.hear(lambda m: m.get("kind") == "picture")
        reply = client.post(
            f"/api/sessions/{id_}/variants",
            data=settings(base=0, rect=[60, 40, 12, 12], n=3, seed=5),
            files={"overlay": ("o.png", stroke(12))},
        )
        assert reply.status_code == 202, reply.text
        assert page.done(reply.json()["job"])["state"] == "done"
        assert np.array_equal(page.picture, pixels(client, id_, 3))
        assert page.area < HEIGHT * WIDTH * 2
    found = idle(client, id_)
    assert [each["parent"] for each in found["tree"]] == [None, 0, 0, 0]
    assert (found["head"], [each["seed"] for each in found["tree"][1:]]) == (3, [7, 6, 5])
    canvas = editor().canvas(photograph(), **STEPS)
    drawn = painted_on(canvas, 60, 40, 12)
    plan = planned(canvas, found["tree"][3]["viewport"], image=drawn)
    made = canvas.variants(3, drawn, seeds=[5, 6, 7], plan=plan)
    for number, version in enumerate((3, 2, 1)):
        made.choose(number)
        assert np.array_equal(pixels(client, id_, version), canvas.pixels)


def test_a_refined_canvas_reaches_its_pages(client):
    id_ = opened(client)
    with watching(client, id_) as socket:
        page = Buffer(socket)
        page.hear(lambda m: m.get("kind") == "picture")
        client.post(f"/api/sessions/{id_}/view", json={"rect": [50, 30, 32, 32]})
        page.hear(lambda m: m.get("event") == "viewport" and m["state"] == "recorded")
        before = page.area
        assert edited(client, id_, 0, 60, 40, 12, refine="dense").status_code == 202
        page.hear(lambda m: m.get("kind") == "result")
        rough = page.picture.copy()
        client.post(f"/api/sessions/{id_}/view", json={"rect": [0, 0, 32, 32]})
        page.hear(lambda m: m.get("event") == "tree" and m["tree"][-1]["refined"] == "dense")
        assert {"result", "refined"} <= {*page.kinds}
        assert page.version == 1
        assert page.area - before < HEIGHT * WIDTH
        assert (page.picture != rough).any()
        assert np.array_equal(page.picture, pixels(client, id_, 1))
    prepared(client, id_, 0, 0, 32, 32)


@pytest.mark.parametrize(
    ("asked", "files"),
    [
        (
            {"areas": [{"prompt": "a"}]},
            {"overlay": ("o.png", stroke(5)), "areas": ("a.png", png(np.full((5, 5), 255, np.uint8)))},
        ),
        ({}, {}),
        ({"rect": [WIDTH - 2, 0, 5, 5]}, {"overlay": ("o.png", stroke(5))}),
    ],
)
def test_what_canvases_do_not_do_is_said(client, asked, files):
    id_ = opened(client)
    form = settings(**{"base": 0, "rect": [5, 5, 5, 5], **asked})
    reply = client.post(f"/api/sessions/{id_}/edits", data=form, files=files)
    assert (reply.status_code, reply.headers["content-type"]) == (422, "application/problem+json")
    assert (
        client.post(
            f"/api/sessions/{opened(client, png(picture('ddpm')))}/expand", json={"base": 0, "left": 3}
        ).status_code
        == 422
    )
