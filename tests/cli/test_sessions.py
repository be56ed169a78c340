"""`retouch info`, `undo` and `redo`: session folders without their model."""

import json

import numpy as np
import pytest

from commands import run, said
from manifests import alter, to_format_1
from retouch.editing.archive import Archive
from retouch.editing.images import as_pixels

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def pixels(path):
    return as_pixels(path).tolist()


def changed(folder, change):
    alter(folder / "house", change)


def state(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def no_model(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("retouch.Editor.from_pretrained", fail)


def test_info_names_settings_versions_and_the_current_picture(folder, model):
    result = run("info", "house")
    assert result.exit_code == 0, result.output
    for word in ("32x32", str(model), "2 recorded of 3", "DDPMScheduler", "fp32", "balanced", "photograph", "2.44%"):
        assert word in result.output.replace("\n", "")
    assert "now" in next(line for line in result.output.splitlines() if "2.44%" in line)
    picture = result.output.splitlines()[-1].split()[-1]
    assert pixels(picture) == pixels("one.png")


def test_info_as_json(folder, model):
    found = json.loads(run("info", "house", "--json").stdout)
    assert (found["kind"], found["storage"], found["current"]) == ("diffusion", "fp32", 1)
    assert found["settings"]["model"] == str(model)
    assert found["settings"]["steps"] == 3
    assert [version["edit"] for version in found["versions"]] == ["photograph", "edit"]
    assert found["bytes"] == sum(version["bytes"] for version in found["versions"])
    on_disk = sum(file.stat().st_size for file in (folder / "house" / "versions").rglob("*.*"))
    assert found["bytes"] == on_disk
    edit = found["versions"][1]
    assert edit["region"] == pytest.approx(25 / 1024)
    assert 0 < edit["bytes_read"] < found["bytes"]
    assert edit["seconds"]["total"] > edit["seconds"]["denoise"] > 0
    assert found["picture"] == edit["picture"]


def test_undo_and_redo_move_and_write_the_picture(folder):
    undone = run("undo", "house", "-o", "back.png")
    assert undone.exit_code == 0, undone.output
    assert "back.png" in undone.output
    assert pixels("back.png") == pixels("a.png")
    info = run("info", "house").output
    assert "undone" in info
    assert pixels(info.splitlines()[-1].split()[-1]) == pixels("a.png")
    redone = run("redo", "house")
    assert redone.exit_code == 0
    assert pixels(redone.output.split()[-1]) == pixels("one.png")


def test_there_is_an_end_to_undo_and_redo(folder):
    last = run("redo", "house", "-o", "no.png")
    assert (last.exit_code, "nothing to redo" in said(last)) == (1, True)
    run("undo", "house")
    first = run("undo", "house", "-o", "no.png")
    assert (first.exit_code, "nothing to undo" in said(first)) == (1, True)
    assert not (folder / "no.png").exists()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("nowhere/x.png", "there is no folder"),
        ("x.psd", "suffix"),
        ("house/versions/0000/image.png", "keeps its own files"),
    ],
)
def test_undo_checks_where_it_writes_first(folder, output, message):
    before = state(folder / "house")
    result = run("undo", "house", "-o", output)
    assert result.exit_code == 2
    assert message in said(result)
    assert state(folder / "house") == before


@pytest.mark.parametrize("command", ["info", "undo", "redo"])
def test_what_is_no_session(folder, command):
    (folder / "empty").mkdir()
    for name in ("nothing", "empty"):
        result = run(command, name)
        assert result.exit_code == 1
        assert "holds no session" in said(result)


def test_a_session_in_use_is_not_moved(folder):
    archive, _ = Archive.open(folder / "house")
    try:
        result = run("undo", "house")
    finally:
        archive.close()
    assert result.exit_code == 1
    assert "in use" in said(result)
    assert run("undo", "house").exit_code == 0


def test_an_altered_picture_is_not_gone_back_to(folder):
    picture = folder / "house" / "versions" / "0000" / "image.png"
    content = bytearray(picture.read_bytes())
    content[-1] ^= 1
    picture.write_bytes(content)
    before = state(folder / "house")
    result = run("undo", "house", "-o", "x.png")
    assert result.exit_code == 1
    assert "checksum differs" in said(result)
    assert state(folder / "house") == before
    assert not (folder / "x.png").exists()


def facts(manifest):
    return manifest["versions"][1]["facts"]


CHANGES = [
    lambda m: m.pop("settings"),
    lambda m: m.update(settings=[]),
    lambda m: m["settings"].pop("scheduler"),
    lambda m: m["settings"].update(editor="x"),
    lambda m: m["settings"].pop("width"),
    lambda m: m.pop("storage"),
    lambda m: m.pop("kind"),
    lambda m: m.update(current="1"),
    lambda m: facts(m).pop("region"),
    lambda m: facts(m).update(region="x"),
    lambda m: facts(m).update(seconds=None),
    lambda m: facts(m).update(bytes_read=float("inf")),
    lambda m: m["versions"][0]["files"].pop("image.png"),
    lambda m: m.update(format=99),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_damaged_manifest_is_named_and_left_alone(folder, change):
    changed(folder, change)
    before = (folder / "house" / "manifest.json").read_bytes()
    result = run("undo", "house")
    assert result.exit_code == 1
    assert "damaged" in said(result) or "update retouch" in said(result)
    assert (folder / "house" / "manifest.json").read_bytes() == before
    assert run("info", "house").exit_code in (0, 1)


def test_words_from_a_manifest_are_shown_as_text(folder):
    changed(folder, lambda m: facts(m).update(prompt="[b]\x1bx\ud800"))
    result = run("info", "house")
    assert result.exit_code == 0
    assert "[b] x" in result.output
    assert "\x1bx" not in result.output
    assert json.loads(run("info", "house", "--json").stdout)["versions"][1]["prompt"].startswith("[b]\x1b")


def test_a_folder_from_before_manifests_had_checksums(folder):
    before = run("info", "house", "--json").stdout
    to_format_1(folder / "house")
    assert run("info", "house", "--json").stdout == before
    assert run("undo", "house", "-o", "back.png").exit_code == 0
    assert pixels("back.png") == pixels("a.png")
    assert json.loads((folder / "house" / "manifest.json").read_text())["format"] == 5


def test_a_manifest_that_was_altered_is_refused(folder):
    file = folder / "house" / "manifest.json"
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 1'))
    result = run("info", "house")
    assert result.exit_code == 1
    assert "checksum differs" in said(result)


def test_pictures_are_those_of_the_session(folder):
    found = json.loads(run("info", "house", "--json").stdout)
    assert [np.shape(pixels(version["picture"])) for version in found["versions"]] == [(32, 32, 3)] * 2
