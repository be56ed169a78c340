"""Session folders under faults: never a wrong image, never a lost last good state."""

import errno
import os
import signal
import subprocess
import sys
import threading
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import retouch
from manifests import alter
from pipelines import painted, picture, pipeline
from retouch import ArchiveError, Editor, StoreError
from retouch.editing.archive import UNFINISHED, Archive
from retouch.editing.manifest import MANIFEST, Manifest

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@cache
def editor(policy="fast", name="ddpm"):
    return Editor(pipeline(name), policy=policy)


@pytest.fixture
def saved(tmp_path):
    """A folder with a photograph and one edit, and the image it shows."""
    folder = tmp_path / "session"
    with editor().open(picture("ddpm"), steps=2, strength=1.0, folder=folder) as session:
        session.edit(painted(session.pixels))
        return folder, session.pixels


def pixels(folder):
    with retouch.open(folder, editor=editor()) as session:
        return session.pixels


def names(folder):
    return sorted(f.name for f in (folder / "versions").iterdir())


def version(folder, number):
    """The folder of a version."""
    return next(folder / "versions" / each.folder for each in Manifest.read(folder).versions if each.number == number)


CHILD = """
import os, signal, sys
sys.path[:0] = {paths!r}
import numpy as np, retouch
from retouch import Editor
from retouch.editing import archive
from retouch.runtime import blocks
from manifests import alter
from pipelines import painted, pipeline
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
def after(function, count):
    calls = []
    def wrapped(*args, **kwargs):
        calls.append(1)
        return die() if len(calls) > count else function(*args, **kwargs)
    return wrapped
session = retouch.open({folder!r}, editor=Editor(pipeline("ddpm"), policy="fast"))
{before}
{fault}
{action}
"""

FAULTS = {
    "tensors": "blocks.in_file = die",
    "sealing": "archive._sealed = after(archive._sealed, 1)",
    "rename": "archive.Path.rename = die",
    "before the manifest": "archive.Archive.commit = die",
    "half a manifest": (
        "sync = os.fsync; name = lambda fd: os.readlink(f'/proc/self/fd/{fd}')\n"
        "archive.os.fsync = lambda fd: die() if 'manifest' in name(fd) else sync(fd)"
    ),
    "replacing the manifest": "archive.Path.replace = die",
    "cleaning": "archive.Archive.clean = die",
}
ACTIONS = {
    "edit": "session.edit(painted(session.pixels, 20, 3))",
    "edit after undo": "session.undo(); session.edit(painted(session.pixels, 20, 3))",
    "close": "session.close()",
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("fault", "action"), [*((f, "edit") for f in FAULTS), ("cleaning", "edit after undo")])
def test_killed_during_an_edit(fault, action, saved):
    folder, image = saved
    text = CHILD.format(
        paths=[str(Path(__file__).parents[1])],
        folder=str(folder),
        before="",
        fault=FAULTS[fault],
        action=ACTIONS[action],
    )
    ran = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    with retouch.open(folder, editor=editor()) as session:
        found = [version.number for version in session.versions]
        assert names(folder) == [version.folder for version in session.versions]
        if found == [0, 1]:  # the edit does not count
            assert np.array_equal(session.versions[1].pixels, image)
        else:  # the manifest was replaced before the process died
            assert fault == "cleaning"
        session.edit(painted(session.pixels, 3, 20))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("fault", ["second layer", *FAULTS])
def test_killed_while_layers_are_put_into_the_folder(fault, saved):
    """The edit counts already; what it computed is there, or is made again."""
    folder, image = saved
    faults = {**FAULTS, "second layer": "blocks.in_file = after(blocks.in_file, 1)"}
    text = CHILD.format(
        paths=[str(Path(__file__).parents[1])],
        folder=str(folder),
        before=ACTIONS["edit"],
        fault=faults[fault],
        action=ACTIONS["close"],
    )
    ran = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    assert bool(Manifest.read(folder).versions[2].layers) == (fault == "cleaning")
    with retouch.open(folder, editor=editor()) as session:
        assert names(folder) == [version.folder for version in session.versions]
        assert [version.number for version in session.versions] == [0, 1, 2]
        assert np.array_equal(session.versions[1].pixels, image)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            session.edit(painted(session.pixels, 3, 20))


def test_edits_are_kept_without_layers_until_the_session_is_closed(tmp_path):
    folder, other = tmp_path / "s", editor()
    with other.open(picture("ddpm"), steps=2, strength=1.0, folder=folder) as session:
        for place in (3, 12, 20):
            session.edit(painted(session.pixels, place, 3))
        recorded, *edits = Manifest.read(folder).versions
        assert recorded.layers
        assert not any(entry.layers for entry in edits)
        held = {
            name: {v: snapshot.rows(v) for v in snapshot.types} for name, snapshot in session.version.snapshots.items()
        }
    assert [bool(entry.layers) for entry in Manifest.read(folder).versions] == [True, False, False, True]
    with retouch.open(folder, editor=editor()) as session:
        for name, snapshot in session.version.snapshots.items():
            assert all(torch.equal(snapshot.rows(value), rows) for value, rows in held[name].items())
        session.undo()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            session.edit(painted(session.pixels, 20, 20))  # the second edit's layers are made again
    layers = [bool(entry.layers) for entry in Manifest.read(folder).versions]
    assert layers == [True, False, False, True, True]


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk(saved, monkeypatch):
    folder, image = saved
    with retouch.open(folder, editor=editor()) as session:
        before = names(folder)
        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.raises(StoreError, match="no space left"):
            session.edit(painted(session.pixels, 20, 3))
        with pytest.raises(StoreError, match="no space left"):
            session.save(folder.parent / "other")
        assert not (folder.parent / "other").exists()
        monkeypatch.undo()
        assert names(folder) == before
        assert np.array_equal(session.pixels, image)
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="No space left"):
            session.edit(painted(session.pixels, 20, 3))
        monkeypatch.undo()
        session.edit(painted(session.pixels, 20, 3))
        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.warns(UserWarning, match="no space left.*made again when the session is opened"):
            session.close()
        monkeypatch.undo()
    assert not np.array_equal(pixels(folder), image)


LIMITED = """
import resource, signal, sys
sys.path[:0] = {paths!r}
import retouch
from retouch import Editor, StoreError
from manifests import alter
from pipelines import painted, pipeline
session = retouch.open({folder!r}, editor=Editor(pipeline("ddpm"), policy="fast"))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
try:
    session.edit(painted(session.pixels, 20, 3))
except StoreError as error:
    print("refused:", error)
"""


def test_files_may_not_grow(saved):
    folder, image = saved
    text = LIMITED.format(paths=[str(Path(__file__).parents[1])], folder=str(folder))
    ran = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert "refused: no space left" in ran.stdout, ran.stderr
    assert np.array_equal(pixels(folder), image)


def a_layer(folder):
    return sorted(version(folder, 1).glob("*step*"))[0]


def truncate(folder):
    file = a_layer(folder)
    os.truncate(file, file.stat().st_size - 1)


def flip(folder):
    data = bytearray(a_layer(folder).read_bytes())
    data[-5] ^= 1
    a_layer(folder).write_bytes(data)


def swap(folder):
    one, two = sorted(version(folder, 1).glob("*step*"))[:2]
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)


def lose(folder):
    a_layer(folder).unlink()


@pytest.mark.parametrize("damage", [truncate, flip, swap, lose])
def test_damaged_files_are_refused(damage, saved):
    folder, _ = saved
    damage(folder)
    with pytest.raises(StoreError, match=r"cannot be trusted"):
        pixels(folder)


def change(manifest, *path, value):
    for key in path[:-1]:
        manifest = manifest[key]
    manifest[path[-1]] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["format"], 6, "update retouch"),
        (["format"], 4, "damaged"),
        (["current"], 7, "damaged"),
        (["versions"], 3, "damaged"),
        (["versions", 1, "number"], 0, "damaged"),
        (["versions", 0, "layers"], [["step-000", "../../secret"]], "damaged"),
        (["versions", 1, "files"], {"../../secret": {"bytes": 1, "blake2b": ""}}, "damaged"),
        (["versions", 1, "layers"], [], None),
        (["versions", 0, "layers"], [], "incomplete|no whole recording"),
        (["kind"], "other", "kind"),
        (["settings"], {}, "damaged"),
        (["settings", "first"], 99, "damaged"),
        (["settings", "height"], 10**7, "does not fit this editor: .* larger"),
        (["settings", "height"], 64, "another network"),
        (["settings", "height"], 31, "does not fit this editor: .* multiples"),
        (["settings", "seed"], -1, "damaged"),
        (["settings", "steps"], 0, "damaged"),
        (["settings", "calibration"], {"gain": "x", "floor": 0.0}, "damaged"),
        (["settings", "editor", "dtype"], "int4", "damaged"),
        (["versions", 1, "facts", "prompt"], "a house", "does not fit this editor: .* takes no prompt"),
        (["versions", 1, "layers"], [["step-xyz", "000-step-xyz.safetensors"]], "damaged"),
        (["storage"], "int4", "damaged.*storage"),
        (["networks", "denoiser", "weights"], "0", "other weights"),
        (["networks", "denoiser", "policy"], {"dilate": 9}, "another policy"),
        (["networks", "denoiser", "policy"], {"glow": 9}, "'glow', which this version does not know; update retouch"),
        (["networks", "denoiser", "policy"], {"dilate": "9"}, "damaged"),
        (["networks", "denoiser", "policy"], "Policy(dilate=__import__('os').getpid())", "damaged"),
    ],
)
def test_altered_manifests_are_refused(path, value, message, saved):
    folder, image = saved
    alter(folder, lambda manifest: change(manifest, *path, value=value))
    if message is None:  # a version that added no layer is as good as its image
        assert np.array_equal(pixels(folder), image)
        return
    before = names(folder)
    with pytest.raises(ArchiveError, match=message):
        pixels(folder)
    assert names(folder) == before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 2}', '{"format": true}', "[" * 100_000])
def test_broken_manifests_are_refused(text, saved):
    folder, _ = saved
    (folder / MANIFEST).write_text(text)
    with pytest.raises(ArchiveError, match=r"damaged|update retouch"):
        pixels(folder)


def test_other_weights_policies_and_folders_are_refused(saved, tmp_path):
    folder, _ = saved
    with pytest.raises(ArchiveError, match="another policy"):
        retouch.open(folder, editor=editor("balanced"))
    with pytest.raises(ArchiveError):
        retouch.open(folder, editor=editor(name="v"))
    weight = next(pipeline("ddpm").unet.parameters())
    kept = weight.data.clone()
    weight.data[0] += 1
    try:
        with pytest.raises(ArchiveError, match="other weights"):
            pixels(folder)
    finally:
        weight.data.copy_(kept)
    with pytest.raises(ArchiveError, match="holds no session"):
        retouch.open(tmp_path)
    with pytest.raises(ArchiveError, match="holds a session already"):
        Archive.create(folder)
    with pytest.raises(ArchiveError, match="is not empty"):
        Archive.create(tmp_path)
    with pytest.raises(ArchiveError, match="does not say which model"):
        retouch.open(folder)


def test_weights_in_another_memory_order_are_the_same_weights(saved):
    folder, image = saved
    unet = pipeline("ddpm").unet
    unet.to(memory_format=torch.channels_last)
    try:
        assert np.array_equal(pixels(folder), image)
    finally:
        unet.to(memory_format=torch.contiguous_format)


def test_a_folder_names_the_weights_of_its_recordings(tmp_path):
    """Weights that another session took over in between are not those of this one."""
    made = Editor(pipeline("v"), policy="fast")
    session = made.open(picture("v"), steps=1, strength=1.0)
    weight = next(pipeline("v").unet.parameters())
    kept = weight.data.clone()
    weight.data[0] += 1
    try:
        made.open(picture("v"), steps=1, strength=1.0)
        session.save(tmp_path / "s")
        session.close()
        with pytest.raises(ArchiveError, match="other weights"):
            retouch.open(tmp_path / "s", editor=made)
    finally:
        weight.data.copy_(kept)
    with retouch.open(tmp_path / "s", editor=made) as again:
        assert np.array_equal(again.pixels, session.pixels)


def test_what_a_process_left_before_its_first_version_is_taken_over(tmp_path):
    folder = tmp_path / "s"
    archive = Archive.create(folder)
    (archive.staging("0000") / "000-step-000.safetensors").write_bytes(b"half")
    (folder / UNFINISHED).write_text("{")
    with pytest.raises(ArchiveError, match="in use"):
        editor().open(picture("ddpm"), steps=1, strength=1.0, folder=folder)
    archive.close()
    with editor().open(picture("ddpm"), steps=1, strength=1.0, folder=folder) as session:
        image = session.pixels
    assert np.array_equal(pixels(folder), image)
    assert names(folder) == ["0000"]


@pytest.mark.parametrize("foreign", ["notes.txt", "versions/notes.txt"])
def test_a_folder_with_other_files_is_left_alone(foreign, tmp_path):
    folder = tmp_path / "s"
    (folder / "versions").mkdir(parents=True)
    (folder / foreign).write_text("mine")
    with pytest.raises(ArchiveError, match="is not empty"):
        Archive.create(folder)
    assert sorted(f.name for f in folder.rglob("*") if f.is_file()) == ["notes.txt"]


def test_a_file_is_no_session(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArchiveError, match="holds no session"):
        retouch.open(tmp_path / "file")


def test_any_thread_may_close_a_folder(saved):
    folder, image = saved
    session = retouch.open(folder, editor=editor())
    with pytest.raises(ArchiveError, match="in use"):
        retouch.open(folder, editor=editor())
    thread = threading.Thread(target=session.close)
    thread.start()
    thread.join()
    assert np.array_equal(pixels(folder), image)
