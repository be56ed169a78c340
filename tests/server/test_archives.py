"""Sessions as files: what goes out comes in again, and a stranger's file reaches nothing."""

import io
import zipfile

import numpy as np
import pytest

from pipelines import picture
from retouch.editing.manifest import MANIFEST, MAX_BYTES
from retouch.server.limits import Limits
from studios import OTHER, asking, created, edited, idle, pixels, png, settings, studio

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with asking(studio(tmp_path_factory.mktemp("home"))) as client:
        yield client


@pytest.fixture(scope="module")
def archive(client):
    """A session with an edit, and its file."""
    id_ = created(client)
    edited(client, id_, 0)
    idle(client, id_)
    reply = client.get(f"/api/sessions/{id_}/archive")
    assert reply.headers["content-type"] == "application/zip"
    return id_, reply.content


def send(client, data, **headers):
    return client.post("/api/archives", files={"archive": ("../../x.zip", data)}, headers=headers)


def rewritten(data, change, compression=zipfile.ZIP_STORED):
    """The file with its members, by name, changed."""
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        members = {member.filename: opened.read(member) for member in opened.infolist()}
    change(members)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return file.getvalue()


def test_a_session_goes_out_and_in(client, archive):
    id_, data = archive
    reply = send(client, data, **OTHER)
    assert reply.status_code == 201, reply.text
    new = reply.json()["id"]
    assert new != id_
    original = pixels(client, id_, 1)
    client.headers.update(OTHER)
    try:
        assert np.array_equal(pixels(client, new, 1), original)
        assert edited(client, new, 1, left=2, top=20).status_code == 202
        assert idle(client, new)["head"] == 2
    finally:
        client.headers.update({"Authorization": f"Bearer {'a' * 43}"})


def layer(members):
    return next(name for name in members if name.endswith(".safetensors"))


def flip(members):
    name = layer(members)
    data = bytearray(members[name])
    data[-1] ^= 1
    members[name] = bytes(data)


CHANGES = {
    "a path upwards": lambda m: m.update({"../evil.png": b"x"}),
    "an absolute path": lambda m: m.update({"/etc/evil.png": b"x"}),
    "a path of Windows": lambda m: m.update({"versions\\0000\\evil.png": b"x"}),
    "another file": lambda m: m.update({"evil.pkl": b"x"}),
    "a deeper folder": lambda m: m.update({"versions/0000/x/evil.png": b"x"}),
    "a changed tensor": flip,
    "a lost tensor": lambda m: m.pop(layer(m)),
    "no manifest": lambda m: m.pop(MANIFEST),
    "another manifest": lambda m: m.update({MANIFEST: b"{}"}),
    "a pickle": lambda m: m.update({layer(m): b"\x80\x04\x95\x00"}),
    "a manifest with another model": lambda m: m.update({MANIFEST: m[MANIFEST].replace(b"tiny/ddpm", b"evil/ddpm")}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_no_session_is_refused_and_leaves_nothing(client, archive, change, tmp_path):
    home = client.app.app.app.state.studio.pool.home.folder
    before = sorted(home.parent.rglob("*"))
    reply = send(client, rewritten(archive[1], CHANGES[change]))
    assert reply.status_code in (409, 415), reply.text
    assert str(home) not in reply.text
    assert sorted(home.parent.rglob("*")) == before


def forged(data, change):
    """The file with the head of its first member changed, in both places where a zip says it."""
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        members = {member.filename: opened.read(member) for member in opened.infolist()}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as made:
        for name, content in members.items():
            made.writestr(name, content)
        change(made.infolist()[0])
    return file.getvalue()


FORGED = {
    "a size that is not that of what follows": lambda member: setattr(member, "file_size", 1 << 40),
    "another size that is not": lambda member: (setattr(member, "file_size", 9), setattr(member, "compress_size", 9)),
    "another check sum": lambda member: setattr(member, "CRC", member.CRC ^ 1),
    "an offset before the file": lambda member: setattr(member, "header_offset", 1 << 30),
    "a link": lambda member: setattr(member, "external_attr", 0o120777 << 16),
    "a folder": lambda member: setattr(member, "filename", "versions/0000/"),
    "a password": lambda member: setattr(member, "flag_bits", 1),
}


@pytest.mark.parametrize("change", FORGED)
def test_zips_that_lie_are_refused_or_mean_what_they_hold(client, archive, change):
    home = client.app.app.app.state.studio.pool.home.folder
    before = sorted(home.parent.rglob("*"))
    reply = send(client, forged(archive[1], FORGED[change]))
    if change == "a link":  # what it holds is written as a file, whatever it is said to be
        assert reply.status_code == 201
        new = home / "anna" / reply.json()["id"]
        assert not any(path.is_symlink() for path in new.rglob("*"))
        client.delete(f"/api/sessions/{new.name}")
    else:
        assert reply.status_code in (413, 415), reply.text
    assert sorted(home.parent.rglob("*")) == before


def test_names_that_come_twice(client, archive):
    file = io.BytesIO(archive[1])
    with zipfile.ZipFile(file, "a", zipfile.ZIP_STORED) as made, pytest.warns(UserWarning, match="Duplicate"):
        made.writestr(MANIFEST, b"{}")
    assert send(client, file.getvalue()).status_code == 415


def test_a_manifest_that_is_larger_than_any(client, archive):
    data = rewritten(archive[1], lambda m: m.update({MANIFEST: m[MANIFEST] + b" " * MAX_BYTES}))
    assert send(client, data).status_code == 413


def test_sessions_of_other_kinds(client, tmp_path):
    """They come in where their model is, and are refused where it is not."""
    with asking(studio(tmp_path, names=("upscale",))) as other:
        reply = other.post("/api/sessions", data=settings(), files={"picture": png(picture("ddpm"))})
        id_ = reply.json()["id"]
        idle(other, id_)
        data = other.get(f"/api/sessions/{id_}/archive").content
        reply = send(other, data)
        assert reply.status_code == 201, reply.text
        assert idle(other, reply.json()["id"])["kind"] == "upscale"
        assert np.array_equal(pixels(other, reply.json()["id"], 0), pixels(other, id_, 0))
    assert send(client, data).status_code == 409


def test_a_full_quota_is_told_before_anything_is_kept(tmp_path, archive):
    with asking(studio(tmp_path, Limits(sessions=1))) as client:
        assert send(client, archive[1]).status_code == 201
        assert send(client, archive[1]).status_code == 429
        assert len(client.get("/api/sessions").json()) == 1


def test_compressed_members_are_not_inflated(client, archive):
    assert send(client, rewritten(archive[1], lambda m: None, zipfile.ZIP_DEFLATED)).status_code == 415


@pytest.mark.parametrize("data", [b"", b"x" * 100, b"PK\x03\x04" + bytes(60)])
def test_what_is_no_zip(client, data):
    assert send(client, data).status_code == 415


def test_cut_archives(client, archive):
    data = archive[1]
    for end in range(0, len(data), len(data) // 25):
        assert send(client, data[:end]).status_code == 415


def test_what_is_larger_than_allowed(tmp_path, archive):
    with asking(studio(tmp_path, Limits(archive=len(archive[1]) // 2))) as client:
        assert send(client, archive[1]).status_code == 413
