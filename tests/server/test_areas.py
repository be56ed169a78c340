"""Words for parts of a picture over the API."""

import numpy as np
import pytest

from pipelines import picture
from studios import asking, editor, idle, pixels, png, settings, stroke, studio

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

LEFT, RIGHT = np.zeros((16, 32), np.uint8), np.zeros((16, 32), np.uint8)
LEFT[2:14, 2:12], RIGHT[2:14, 20:30] = 255, 255
RECT = [16, 8, 32, 16]
WORDS = [{"prompt": "a b"}, {"prompt": "c", "negative": "d"}]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with asking(studio(tmp_path_factory.mktemp("home"), names=("sd", "ddpm"))) as client:
        yield client


def opened(client, name="sd", source=None):
    reply = client.post(
        "/api/sessions",
        data=settings(model=f"tiny/{name}", steps=2, strength=1.0, **({"prompt": "e f"} if name == "sd" else {})),
        files={"picture": ("x.png", png(picture(name) if source is None else source))},
    )
    assert reply.status_code == 202, reply.text
    idle(client, reply.json()["id"])
    return reply.json()["id"]


def sent(client, id_, areas=WORDS, masks=(LEFT, RIGHT), files=(), what="edits", **given):
    parts = [*(("areas", ("a.png", png(mask))) for mask in masks), *files]
    asked = settings(base=0, **{"rect": RECT, "refine": False, "areas": areas, **given})
    return client.post(f"/api/sessions/{id_}/{what}", data=asked, files=parts or None)


def whole(mask):
    found = np.zeros((64, 64), np.uint8)
    found[8:24, 16:48] = mask
    return found


def expected(**given):
    session = editor("sd").open(picture("sd"), steps=2, strength=1.0, prompt="e f")
    areas = [(whole(LEFT), "a b"), (whole(RIGHT), "c", "d")]
    session.edit(areas=areas, **given)
    return session.pixels


def test_every_area_has_its_words_as_in_the_library(client):
    id_ = opened(client)
    reply = sent(client, id_)
    assert reply.status_code == 202, reply.text
    assert len(idle(client, id_)["tree"]) == 2
    assert np.array_equal(pixels(client, id_, 1), expected())
    found = client.get(f"/api/sessions/{id_}/explain?timed=true").json()
    assert [network["network"] for network in found["networks"]] == ["denoiser", "decoder"]
    for network in found["networks"]:
        assert all(layer["milliseconds"] > 0 for layer in network["layers"] if layer["macs"])


def test_what_is_painted_is_edited_beside_the_areas_and_a_mask_says_it_all(client):
    drawn = picture("sd")
    drawn[10:15, 30:35] = (255, 0, 40)
    overlay = np.zeros((16, 32, 4), np.uint8)
    overlay[2:7, 14:19] = (255, 0, 40, 255)
    files = [("overlay", ("o.png", png(overlay)))]
    both = whole(np.maximum(np.maximum(LEFT, RIGHT), overlay[..., 3]))
    for more, mask in (([], both), ([("mask", ("m.png", png(LEFT)))], whole(LEFT))):
        id_ = opened(client)
        assert sent(client, id_, files=[*files, *more]).status_code == 202
        assert len(idle(client, id_)["tree"]) == 2
        assert np.array_equal(pixels(client, id_, 1), expected(image=drawn, mask=mask))


def test_areas_of_a_canvas_have_their_words_as_in_the_library(client):
    source = np.random.default_rng(0).integers(0, 256, (10, 15, 3), np.uint8).repeat(10, 0).repeat(10, 1)
    id_ = opened(client, source=source)
    reply = sent(client, id_)
    assert reply.status_code == 202, reply.text
    told = idle(client, id_)["tree"][1]["viewport"]
    canvas = editor("sd").canvas(source, steps=2, strength=1.0, prompt="e f")
    asked = {"areas": [(LEFT, "a b"), (RIGHT, "c", "d")], "box": (16, 8, 48, 24)}
    left, top, width, height = told["rect"]
    box = slice(top, top + height), slice(left, left + width)
    candidates = canvas.plan(**asked).candidates
    plan = next(each for each in candidates if (each.way, each.viewport.box) == (told["way"], box))
    canvas.edit(**asked, plan=plan)
    assert canvas.version.facts["areas"] == [{"prompt": "a b", "negative": None}, {"prompt": "c", "negative": "d"}]
    assert np.array_equal(pixels(client, id_, 1), canvas.pixels)


def test_areas_that_cannot_be_are_refused_and_change_nothing(client):
    id_, plain = opened(client), opened(client, "ddpm")
    black = np.zeros_like(LEFT)
    for reply in (
        sent(client, id_, masks=(LEFT,)),
        sent(client, id_, areas=WORDS[:1]),
        sent(client, id_, masks=(LEFT, black)),
        sent(client, id_, masks=(LEFT, RIGHT[:4])),
        sent(client, id_, areas=[{"prompt": ""}, WORDS[1]]),
        sent(client, id_, areas=[{"words": "a"}, WORDS[1]]),
        sent(client, id_, areas=WORDS * 10, masks=(LEFT, RIGHT) * 10),
        sent(client, id_, what="variants"),
        sent(client, plain, areas=WORDS, masks=(LEFT, RIGHT), rect=[0, 0, 32, 16]),
    ):
        assert reply.status_code == 422, reply.text
    damaged = client.post(
        f"/api/sessions/{id_}/edits",
        data=settings(base=0, rect=[0, 0, 5, 5], areas=WORDS[:1]),
        files={"areas": ("a.png", stroke()[:40])},
    )
    assert damaged.status_code == 415
    assert len(idle(client, id_)["tree"]) == len(idle(client, plain)["tree"]) == 1


def test_models_say_whether_they_take_areas(client):
    found = {model["name"]: model["capabilities"]["areas"] for model in client.get("/api/models").json()}
    assert found == {"tiny/sd": True, "tiny/ddpm": False}
