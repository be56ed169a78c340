"""Pictures of strangers: read by content alone, bounded, and refused with a reason when broken."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pipelines import picture
from retouch.server import uploads
from retouch.server.limits import Limits
from retouch.server.problems import Problem
from retouch.server.uploads import Rectangle
from studios import asking, created, edited, idle, pixels, png, settings, studio

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

LIMIT = 1 << 20


def of(kind, mode="RGB", size=(24, 20)):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 4), np.uint8), "RGBA").convert(mode)
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_what_is_read(kind):
    assert uploads.picture(of(kind), LIMIT).shape == (20, 24, 3)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM", "TGA", "ICO", "PDF"])
def test_other_formats_are_not_even_looked_at(kind, monkeypatch):
    with pytest.raises(Problem) as refused:
        uploads.picture(of(kind), LIMIT)
    assert refused.value.status_code == 415


def bomb(side=60000):
    """A PNG that says that it is huge, in a few bytes."""
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    body = zlib.compress(bytes(1 << 20))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [1025, 12000, 60000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side, monkeypatch):
    def decode(*_):
        raise AssertionError("it was decoded")

    monkeypatch.setattr(Image.Image, "convert", decode)
    with pytest.raises(Problem) as refused:
        uploads.picture(bomb(side), LIMIT)
    assert refused.value.status_code == 413


def read_or_refused(data):
    """The pixels, or the status with which they are refused."""
    try:
        return uploads.picture(data, LIMIT)
    except Problem as problem:
        return problem.status_code


def test_broken_pictures_are_refused_with_a_reason_or_read():
    """500 mutations of good files: bytes changed, cut, doubled."""
    rng = random.Random(0)
    good = [of("PNG", mode) for mode in ("RGB", "RGBA", "L", "P")] + [of("JPEG"), of("WEBP"), of("WEBP", "RGBA")]
    refused = 0
    for number in range(500):
        data = bytearray(good[number % len(good)])
        for _ in range(rng.randint(1, 12)):
            place = rng.randrange(len(data))
            match rng.randrange(4):
                case 0:
                    data[place] = rng.randrange(256)
                case 1:
                    del data[place : place + rng.randint(1, 30)]
                case 2:
                    data[place:place] = data[: rng.randint(1, 30)]
                case _:
                    data[place : place + 4] = rng.randbytes(4)
            if not data:
                data = bytearray(b"x")
        found = read_or_refused(bytes(data))
        if isinstance(found, int):
            assert found in (413, 415)
            refused += 1
        else:
            assert found.dtype == np.uint8
            assert found.shape[2] == 3
            assert found.shape[0] * found.shape[1] <= LIMIT
    assert 100 < refused < 500


@pytest.mark.parametrize("name", ["../../../etc/cron.d/x", "/tmp/x.png", "..\\x", "manifest.json", "\x00", "a" * 500])
def test_a_files_name_reaches_nothing(tmp_path, name):
    """Elsewhere an upload's name overwrote files of the server."""
    with asking(studio(tmp_path / "home")) as client:
        created(client)
        before = {path for path in tmp_path.rglob("*") if path.is_file()}
        reply = client.post(
            "/api/sessions",
            data=settings(steps=2, strength=1.0),
            files={"picture": (name, png(picture("ddpm")), "text/html")},
        )
        assert reply.status_code == 202, reply.text
        id_ = reply.json()["id"]
        idle(client, id_)
        new = {path for path in tmp_path.rglob("*") if path.is_file()} - before
        assert all(id_ in str(path) for path in new)


def test_a_picture_over_the_limit_makes_no_session(tmp_path):
    with asking(studio(tmp_path, Limits(pixels=1000))) as client:
        reply = client.post("/api/sessions", data=settings(steps=1), files={"picture": ("x.png", png(picture("ddpm")))})
        assert reply.status_code == 413
        assert client.get("/api/sessions").json() == []


def test_overlays_are_composited_exactly():
    rng = np.random.default_rng(0)
    base, overlay = rng.integers(0, 256, (9, 8, 3), np.uint8), rng.integers(0, 256, (4, 5, 4), np.uint8)
    overlay[0, :, 3], overlay[1, :, 3] = 0, 255
    found = uploads.composited(base, overlay, Rectangle(2, 3, 5, 4))
    alpha = overlay[..., 3:] / 255
    exact = overlay[..., :3] * alpha + base[3:7, 2:7] * (1 - alpha)
    assert np.abs(found[3:7, 2:7] - exact).max() <= 0.5
    assert np.array_equal(found[3, 2:7], base[3, 2:7])
    assert np.array_equal(found[4, 2:7], overlay[1, :, :3])
    outside = np.ones((9, 8), bool)
    outside[3:7, 2:7] = False
    assert np.array_equal(found[outside], base[outside])


def test_half_a_stroke_is_drawn_on_the_servers_own_pixels(tmp_path):
    with asking(studio(tmp_path)) as client:
        id_ = created(client)
        assert edited(client, id_, 0).status_code == 202
        idle(client, id_)
        before = pixels(client, id_, 1)
        overlay = np.zeros((6, 6, 4), np.uint8)
        overlay[2:4, 2:4] = (0, 0, 255, 128)
        reply = client.post(
            f"/api/sessions/{id_}/edits",
            data=settings(base=1, rect=[20, 20, 6, 6], refine=False),
            files={"overlay": ("o.png", png(overlay))},
        )
        assert reply.status_code == 202
        idle(client, id_)
        after = pixels(client, id_, 2)
        assert (after != before)[22:24, 22:24].any()
        assert np.array_equal(after[:12, :12], before[:12, :12])
