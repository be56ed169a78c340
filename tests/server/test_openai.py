"""OpenAI's client, unchanged, against a server of ours."""

import base64
import io
import time

import numpy as np
import openai
import pytest
from PIL import Image

from pipelines import picture
from retouch.server.limits import Limits
from studios import TOKENS, asking, editor, png, served, studio

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    made = studio(tmp_path_factory.mktemp("home"), names=("sd",))
    with (
        served(made) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key=TOKENS["anna"], max_retries=0) as found,
    ):
        yield found


def opened(b64):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(b64))).convert("RGB"))


def mask(top=16, left=16, size=16):
    levels = np.full((64, 64, 4), 255, np.uint8)
    levels[top : top + size, left : left + size, 3] = 0
    return png(levels)


def test_an_edit_of_a_picture_and_then_of_what_came_back(client):
    image = picture("sd")
    raw = client.images.with_raw_response.edit(image=("a.png", png(image)), mask=("m.png", mask()), prompt="a b", n=1)
    assert raw.headers["retouch-incremental"] == "false"
    first = opened(raw.parse().data[0].b64_json)
    assert (first != image)[16:32, 16:32].any()
    outside = np.ones((64, 64), bool)
    outside[4:44, 4:44] = False
    assert np.array_equal(first[outside], image[outside])
    again = client.images.with_raw_response.edit(
        image=("a.png", png(first)), mask=("m.png", mask(40, 40, 8)), prompt="a"
    )
    assert again.headers["retouch-incremental"] == "true"
    assert again.headers["retouch-session"] == raw.headers["retouch-session"]
    second = opened(again.parse().data[0].b64_json)
    assert np.array_equal(second[:28, :28], first[:28, :28])
    assert (second != first).any()


def test_partial_images_come_as_events(client):
    stream = client.images.edit(
        image=("a.png", png(picture("sd", 1))), mask=("m.png", mask()), prompt="c", stream=True, partial_images=2
    )
    events = list(stream)
    assert [event.type for event in events] == [*["image_edit.partial_image"] * 2, "image_edit.completed"]
    assert [event.partial_image_index for event in events[:-1]] == [0, 1]
    assert all(opened(event.b64_json).shape == (64, 64, 3) for event in events)
    assert events[-1].size == "64x64"


def test_several_edits_at_once_are_the_variants_of_the_library(client):
    given = {"image": ("a.png", png(picture("sd", 2))), "mask": ("m.png", mask()), "prompt": "a b"}
    raw = client.images.with_raw_response.edit(**given, n=3)
    found = [opened(each.b64_json) for each in raw.parse().data]
    session = editor("sd").open(picture("sd", 2), prompt="a b", strength=1.0)
    region = np.zeros((64, 64), bool)
    region[16:32, 16:32] = True
    expected = session.variants(3, mask=region, prompt="a b", inpaint=True).images
    assert len(found) == 3
    assert all(np.array_equal(made, image) for made, image in zip(found, expected, strict=True))
    again = client.images.with_raw_response.edit(**{**given, "image": ("a.png", png(found[0]))}, n=2)
    assert again.headers["retouch-incremental"] == "true"
    assert again.headers["retouch-session"] == raw.headers["retouch-session"]
    assert len(again.parse().data) == 2
    events = list(client.images.edit(**given, n=2, stream=True))
    assert [event.type for event in events] == ["image_edit.completed"] * 2
    assert all(np.array_equal(opened(event.b64_json), made) for event, made in zip(events, found, strict=False))


def sheet(height=100, width=150, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (-(-height // 10), -(-width // 10), 3), np.uint8)
    return coarse.repeat(10, 0).repeat(10, 1)[:height, :width]


def holed(size, top, left, side):
    """A mask of a picture of that size, with a square that is transparent."""
    levels = np.full((*size, 4), 255, np.uint8)
    levels[top : top + side, left : left + side, 3] = 0
    return png(levels)


def test_pictures_of_any_size_are_edited_as_canvases(client):
    image = sheet()
    given = {"image": ("a.png", png(image)), "mask": ("m.png", holed((100, 150), 40, 60, 16)), "prompt": "a b"}
    raw = client.images.with_raw_response.edit(**given)
    assert raw.headers["retouch-incremental"] == "false"
    first = opened(raw.parse().data[0].b64_json)
    assert first.shape == image.shape
    assert (first != image)[40:56, 60:76].any()
    far = np.ones((100, 150), bool)
    far[:80, 30:110] = False
    assert np.array_equal(first[far], image[far])
    again = {"image": ("a.png", png(first)), "mask": ("m.png", holed((100, 150), 48, 64, 12)), "prompt": "c"}
    second = client.images.with_raw_response.edit(**again)
    assert second.headers["retouch-incremental"] == "true"
    assert second.headers["retouch-session"] == raw.headers["retouch-session"]
    made = opened(second.parse().data[0].b64_json)
    assert (made != first)[48:60, 64:76].any()
    assert np.array_equal(made[far], first[far])
    once_more = client.images.with_raw_response.edit(**again)  # of what it was before: a canvas of its own
    assert once_more.headers["retouch-incremental"] == "false"


def test_several_edits_of_a_canvas_and_their_events(client):
    image = sheet(90, 170, seed=1)
    given = {"image": ("a.png", png(image)), "mask": ("m.png", holed((90, 170), 30, 40, 16)), "prompt": "a b"}
    found = [opened(each.b64_json) for each in client.images.edit(**given, n=3).data]
    assert [each.shape for each in found] == [image.shape] * 3
    assert len({each[30:46, 40:56].tobytes() for each in found}) == 3
    assert all(np.array_equal(each[:, 140:], image[:, 140:]) for each in found)
    stream = client.images.edit(**{**given, "image": ("a.png", png(found[0]))}, stream=True, partial_images=2)
    events = list(stream)
    assert events[-1].type == "image_edit.completed"
    assert events[-1].size == "170x90"
    assert all(opened(event.b64_json).shape == image.shape for event in events)
    redrawn = opened(client.images.edit(image=("a.png", png(sheet(70, 110))), prompt="a").data[0].b64_json)
    assert redrawn.shape == (70, 110, 3)


def test_a_canvas_is_edited_as_the_library_does(tmp_path):
    image, made = sheet(seed=2), studio(tmp_path, names=("sd",))
    with asking(made) as client:
        files = {"image": ("a.png", png(image)), "mask": ("m.png", holed((100, 150), 40, 60, 16))}
        reply = client.post("/v1/images/edits", data={"prompt": "a b"}, files=files)
        assert reply.status_code == 200, reply.text
        told = client.get(f"/api/sessions/{reply.headers['retouch-session']}").json()
    assert told["kind"] == "canvas"
    (_, version) = told["tree"]
    assert (version["edit"], version["prompt"]) == ("inpaint", "a b")
    region = np.zeros((100, 150), bool)
    region[40:56, 60:76] = True
    canvas = editor("sd").canvas(image, prompt="a b", strength=1.0)
    left, top, width, height = version["viewport"]["rect"]
    box = slice(top, top + height), slice(left, left + width)
    candidates = canvas.plan(mask=region, prompt="a b").candidates
    way = version["viewport"]["way"]
    canvas.inpaint(region, prompt="a b", plan=next(c for c in candidates if (c.way, c.viewport.box) == (way, box)))
    assert np.array_equal(opened(reply.json()["data"][0]["b64_json"]), canvas.pixels)


def test_only_pictures_over_the_limit_are_refused(tmp_path):
    with asking(studio(tmp_path, Limits(pixels=10_000), names=("sd",))) as client:
        for height, status in ((66, 200), (67, 413)):
            files = {"image": ("a.png", png(sheet(height, 150)))}
            reply = client.post("/v1/images/edits", data={"prompt": "a"}, files=files)
            assert reply.status_code == status, reply.text


def test_generations(client):
    made = client.images.generate(prompt="a b", n=2, size="64x64", output_format="webp")
    pictures = [opened(each.b64_json) for each in made.data]
    assert [each.shape for each in pictures] == [(64, 64, 3)] * 2
    assert (pictures[0] != pictures[1]).any()
    events = list(client.images.generate(prompt="a", size="64x64", stream=True))
    assert events[-1].type == "image_generation.completed"


def test_errors_are_those_that_the_client_knows(client):
    image = ("a.png", png(picture("sd")))
    with pytest.raises(openai.BadRequestError, match="nothing is transparent"):
        client.images.edit(image=image, mask=("m.png", png(np.full((64, 64, 4), 255, np.uint8))), prompt="a")
    with pytest.raises(openai.BadRequestError, match="differ in size"):
        client.images.edit(image=image, mask=("m.png", mask()[:0] + png(np.zeros((8, 8, 4), np.uint8))), prompt="a")
    with pytest.raises(openai.NotFoundError, match="there is no model"):
        client.images.edit(image=image, prompt="a", model="gpt-image-1")
    with pytest.raises(openai.BadRequestError):
        client.images.edit(image=image, prompt="a", n=11)
    with pytest.raises(openai.BadRequestError, match="prompt"):
        client.images.edit(image=image, prompt="")
    with pytest.raises(openai.APIStatusError, match="PNG, JPEG or WebP"):
        client.images.edit(image=("a.gif", b"GIF89a"), prompt="a")
    for size in ("63x64", "99999x99999", "0x64", "64"):
        with pytest.raises(openai.BadRequestError):
            client.images.generate(prompt="a", size=size)
    with pytest.raises(openai.APIStatusError, match="more than"):
        client.images.generate(prompt="a", size="9984x9984")
    other = client.with_options(api_key="wrong")
    with pytest.raises(openai.AuthenticationError, match="token"):
        other.images.generate(prompt="a")


def test_generations_for_which_there_is_no_room_leave_none(tmp_path):
    with asking(studio(tmp_path, Limits(sessions=2), names=("sd",))) as client:
        reply = client.post("/v1/images/generations", json={"prompt": "a", "n": 3, "size": "64x64"})
        assert reply.status_code == 429, reply.text
        pool, end = client.app.app.app.state.studio.pool, time.monotonic() + 60
        while pool.of("anna"):
            assert time.monotonic() < end
            time.sleep(0.05)
        reply = client.post("/v1/images/generations", json={"prompt": "a", "n": 2, "size": "64x64"})
        assert len(reply.json()["data"]) == 2


def test_sessions_begun_here_give_way_to_later_ones(tmp_path):
    with asking(studio(tmp_path, Limits(sessions=2), names=("sd",))) as client:
        for seed in range(3):
            reply = client.post(
                "/v1/images/edits",
                data={"prompt": "a"},
                files={"image": ("a.png", png(picture("sd", seed))), "mask": ("m.png", mask())},
            )
            assert reply.status_code == 200, reply.text
        assert len(client.get("/api/sessions").json()) == 2
