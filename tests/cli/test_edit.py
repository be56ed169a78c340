"""`retouch edit` as a user runs it."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from commands import EDIT, run, said
from manifests import alter
from pipelines import painted, picture, pipeline, tiny_vae
from retouch.bench.dense import PEERS
from retouch.bench.options import Peer, Preset, Texts
from retouch.cli.edit import (
    BLEND,
    GUIDANCE,
    POLICY,
    STEPS,
    STRENGTH,
    THRESHOLD,
    BlendName,
    SchedulerName,
    dense_estimate,
)
from retouch.editing import blend, images
from retouch.editing.diffusion import SCHEDULERS, editor
from retouch.editing.images import as_pixels, save_png
from retouch.incremental import Incremental
from retouch.plan.policy import PRESETS, Policy

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def edit(*args, original="a.png", edited="b.png", output="out.png"):
    return run("edit", original, edited, "-o", output, *args)


def edits(session):
    found = json.loads(run("info", session, "--json").stdout)
    return [version["edit"] for version in found["versions"]], found["current"]


@pytest.fixture
def no_model(monkeypatch):
    """Loading a model fails."""

    def fail(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("retouch.Editor.from_pretrained", fail)


def test_names_and_defaults_are_those_of_the_library():
    assert set(get_args(SchedulerName)) == set(SCHEDULERS)
    assert get_args(Preset) == tuple(PRESETS)
    assert get_args(Peer) == tuple(PEERS)
    assert [Policy(text=text).text for text in get_args(Texts)] == list(get_args(Texts))
    assert (get_args(BlendName), BLEND) == (tuple(blend.BLENDS), blend.DEFAULT)
    assert (STEPS, STRENGTH, GUIDANCE) == (editor.STEPS, editor.STRENGTH, editor.GUIDANCE)
    assert inspect.signature(editor.Editor).parameters["policy"].default == POLICY
    assert images.THRESHOLD == THRESHOLD


# Without a session


def test_writes_the_picture_a_preview_and_a_table(folder, model):
    result = edit("--model", model, *EDIT, "--preview", "p.png", "--scheduler", "ddim", "--policy", "fast")
    assert result.exit_code == 0, result.output
    before, out = as_pixels("a.png"), as_pixels("out.png")
    assert (out != before)[9:14, 14:19].any()
    assert np.array_equal(out[25:], before[25:])
    with Image.open("p.png") as sheet:
        assert sheet.width > 3 * 320
    for word in ("dense, 2 steps (estimate)", "record, once", "edit, 2.44% of the picture", "written to out.png"):
        assert word in result.stdout
    assert "session" not in result.stdout
    assert "3/3" in result.stderr


def test_is_what_the_library_does(folder, model, written):
    assert edit("--model", model, *EDIT).exit_code == 0
    assert Path("out.png").read_bytes() == (written / "one.png").read_bytes()


def test_an_error_is_estimated_and_can_be_limited(folder, model):
    free = edit("--model", model, *EDIT)
    strict = edit("--model", model, *EDIT, "--max-error", "1e-9", output="strict.png")
    assert free.exit_code == strict.exit_code == 0
    assert "estimated difference from the dense result" in strict.stdout
    assert "estimated difference" not in free.stdout  # it takes a dense step
    assert (as_pixels("strict.png") != as_pixels("out.png")).any()


def test_an_edit_that_changes_nothing_needs_no_model(folder, model, no_model):
    result = edit("--model", model, "--preview", "p.png", edited="a.png")
    assert result.exit_code == 0
    assert "nothing differs" in result.stdout
    assert np.array_equal(as_pixels("out.png"), as_pixels("a.png"))
    assert Path("p.png").exists()


def test_a_mask_redraws_part_of_the_same_picture(folder, model):
    mask = np.zeros((32, 32), np.uint8)
    mask[4:8, 4:8] = 255
    Image.fromarray(mask).save("m.png")
    result = edit("--model", model, *EDIT, "--mask", "m.png", edited="a.png")
    assert result.exit_code == 0, result.output
    assert "1.56% of the picture" in result.stdout
    changed = (as_pixels("out.png") != as_pixels("a.png")).any(2)
    assert changed[4:8, 4:8].any()
    assert not changed[14:].any()


def test_a_grey_mask_is_drawn_with_less_strength(folder, model):
    for name, level in (("grey.png", 128), ("white.png", 255), ("dark.png", 30)):
        mask = np.zeros((32, 32), np.uint8)
        mask[4:8, 4:8] = level
        Image.fromarray(mask).save(name)
    grey = edit("--model", model, *EDIT, "--mask", "grey.png", edited="a.png")
    assert grey.exit_code == 0, said(grey)
    assert "edit, 1.56%" in grey.stdout
    found = as_pixels("out.png")
    edit("--model", model, *EDIT, "--mask", "white.png", edited="a.png")
    assert not np.array_equal(found, as_pixels("out.png"))
    dark = edit("--model", model, *EDIT, "--mask", "dark.png", edited="a.png")
    assert dark.exit_code == 2
    assert "the brightest value of the mask" in said(dark)


def test_what_is_drawn_outside_the_mask_is_noted(folder, model):
    mask = np.zeros((32, 32), np.uint8)
    mask[9:14, 14:16] = 255
    Image.fromarray(mask).save("m.png")
    result = edit("--model", model, *EDIT, "--mask", "m.png")
    assert result.exit_code == 0
    assert "15 pixels differ outside the mask" in said(result)


def test_pictures_that_differ_everywhere_are_noted(folder, model):
    save_png(255 - as_pixels("a.png"), "b.png")
    result = edit("--model", model, *EDIT)
    assert result.exit_code == 0
    assert "JPEG" in said(result)


def faint():
    """b.png becomes a.png with a square that differs by two grey levels."""
    drawn = as_pixels("a.png")
    drawn[4:9, 4:9] = np.where(drawn[4:9, 4:9] > 128, drawn[4:9, 4:9] - 2, drawn[4:9, 4:9] + 2)
    save_png(drawn, "b.png")


def test_faint_differences_are_noted_and_edited_when_asked_for(folder, model):
    faint()
    result = edit("--model", model, *EDIT)
    assert "nothing differs" in result.stdout
    assert "25 pixels differ by 2 grey levels or less and stay as they were; --threshold 0 edits them" in said(result)
    for options in (["--threshold", 1], ["--policy", "exact"]):
        result = edit("--model", model, *EDIT, *options)
        assert result.exit_code == 0, result.output
        assert "edit, 2.44% of the picture" in result.stdout
        assert "grey levels or less" not in result.stderr


def test_guidance_of_a_model_without_words_is_refused(folder, model):
    result = edit("--model", model, *EDIT, "--guidance", 3, "--session", "new")
    assert result.exit_code == 2
    assert "--guidance does not go with a model that reads no words" in said(result)
    assert not Path("new").exists()


def test_transparency_is_white(folder, model):
    with Image.open("b.png") as image:
        image.putalpha(Image.new("L", image.size, 0))
        image.save("b.png")
    save_png(np.full((32, 32, 3), 255, np.uint8), "a.png")
    result = edit("--model", model)
    assert "nothing differs" in result.stdout


def test_says_what_computed_where(folder, model):
    expected = 'computed with cpu kernels on cpu (chosen by "auto" for cpu)'
    for args in (["--model", model, *EDIT], ["--model", model, *EDIT, "--device", "cpu", "--session", "s"]):
        assert expected in edit(*args).stdout.splitlines()
    again = edit("--session", "s", original="out.png", edited="a.png", output="two.png")
    assert expected in again.stdout.splitlines()


def options_of(monkeypatch, name):
    """The options that a function of the library is called with; it fails then."""
    seen = {}

    def fail(*_, **options):
        seen.update(options)
        raise OSError("enough")

    monkeypatch.setattr(name, fail)
    return seen


MACHINE = ("--device", "cpu", "--memory", "1GB", "--device-memory", "2GB")


def asked(options):
    return options["device"], options.get("memory"), options.get("device_memory")


def test_an_editor_is_told_about_the_machine(folder, model, monkeypatch):
    seen = options_of(monkeypatch, "retouch.Editor.from_pretrained")
    edit("--model", model)
    assert asked(seen) == ("auto", None, None)
    edit("--model", model, *MACHINE)
    assert asked(seen) == ("cpu", 10**9, 2 * 10**9)


def test_a_session_is_told_about_the_machine(folder, monkeypatch):
    seen = options_of(monkeypatch, "retouch.editing.saved.open")
    edit("--session", "house", original="one.png")
    assert asked(seen) == ("auto", None, None)
    edit("--session", "house", *MACHINE, original="one.png")
    assert asked(seen) == ("cpu", 10**9, 2 * 10**9)


# With a session


def test_a_session_goes_on_without_a_new_recording(folder):
    save_png(painted(as_pixels("one.png"), 2, 2), "d.png")
    result = edit("--session", "house", original="one.png", edited="d.png")
    assert result.exit_code == 0, result.output
    assert "record, earlier" in result.stdout
    assert "the session house is at version 2" in result.stdout
    assert edits("house") == (["photograph", "edit", "edit"], 2)
    assert run("undo", "house", "-o", "back.png").exit_code == 0
    assert np.array_equal(as_pixels("back.png"), as_pixels("one.png"))


def test_an_edit_after_undo_begins_a_branch(folder):
    run("undo", "house")
    save_png(painted(as_pixels("a.png"), 20, 2), "d.png")
    assert edit("--session", "house", edited="d.png").exit_code == 0
    assert edits("house") == (["photograph", "edit", "edit"], 2)
    assert run("redo", "house").exit_code == 1
    assert "branch" in run("info", "house").output
    assert run("go", "house", "1", "-o", "back.png").exit_code == 0
    assert np.array_equal(as_pixels("back.png"), as_pixels("one.png"))
    missing = run("go", "house", "9", "-o", "no.png")
    assert (missing.exit_code, "there is no version 9" in said(missing), Path("no.png").exists()) == (1, True, False)


def test_options_that_the_session_has_already_are_no_conflict(folder):
    same = ["--steps", 3, "--seed", 0, "--guidance", 7.5, "--policy", "balanced", "--storage", "fp32"]
    result = edit("--session", "house", *same, "--scheduler", "ddpm", original="one.png", edited="one.png")
    assert result.exit_code == 0, result.output
    assert "nothing differs" in result.stdout


@pytest.mark.parametrize(
    ("option", "value", "recorded"),
    [
        ("--steps", 4, "3"),
        ("--seed", 1, "0"),
        ("--guidance", 2, "7.5"),
        ("--policy", "fast", "balanced"),
        ("--storage", "bf16", "fp32"),
        ("--scheduler", "ddim", "ddpm"),
    ],
)
def test_options_that_were_recorded_differently(folder, no_model, option, value, recorded):
    result = edit("--session", "house", option, value, original="one.png")
    assert result.exit_code == 2
    assert f"{option}: the session house was recorded with {recorded}" in said(result)


def test_classes_are_named(folder):
    pipeline("classes").save_pretrained("classes")
    options = ("--model", "classes", *EDIT, "--session", "s")
    missing = edit(*options)
    assert missing.exit_code == 2
    assert "needs a class: name one with class_label=, from 0 to 3" in said(missing)
    recorded = edit(*options, "--class-label", 1)
    assert recorded.exit_code == 0, recorded.output
    save_png(painted(np.zeros((32, 32, 3), np.uint8), colour=(255,) * 3), Path("mask.png"))
    other = edit(
        "--session",
        "s",
        "--class-label",
        2,
        "--mask",
        "mask.png",
        original="out.png",
        edited="out.png",
        output="two.png",
    )
    assert other.exit_code == 0, other.output
    found = json.loads(run("info", "s", "--json").stdout)
    assert [version["class_label"] for version in found["versions"]] == [1, 1, 2]


def test_another_autoencoder(folder):
    save_png(picture("sd"), Path("sd.png"))
    save_png(painted(picture("sd")), Path("sd-b.png"))
    pipeline("sd").save_pretrained("sd")
    tiny_vae().save_pretrained("tiny")
    options = ("--model", "sd", *EDIT, "--prompt", "a", "--vae", "tiny", "--session", "s")
    result = edit(*options, original="sd.png", edited="sd-b.png")
    assert result.exit_code == 0, result.output
    Path("tiny").rename("moved")
    save_png(painted(np.zeros((64, 64, 3), np.uint8), colour=(255,) * 3), Path("mask.png"))
    again = ("--session", "s", "--mask", "mask.png")
    missing = edit(*again, original="out.png", edited="out.png", output="two.png")
    assert missing.exit_code == 2
    assert "no autoencoder can be loaded from" in said(missing)
    found = edit(*again, "--vae", "moved", original="out.png", edited="out.png", output="two.png")
    assert found.exit_code == 0, found.output


def test_the_original_must_be_the_current_picture(folder, no_model):
    earlier = edit("--session", "house")
    assert earlier.exit_code == 2
    assert "a.png is version 0" in said(earlier)
    assert "`retouch go house 0`" in said(earlier)
    other = edit("--session", "house", original="b.png", edited="a.png")
    assert other.exit_code == 2
    for word in ("is not the current picture", "house/versions/0001-1/image.png", "retouch info house"):
        assert word in said(other)
    assert not Path("out.png").exists()


def test_a_model_that_moved_is_found_and_another_one_is_refused(folder, model, tmp_path_factory):
    moved = tmp_path_factory.mktemp("elsewhere") / "moved"
    alter(folder / "house", lambda manifest: manifest["settings"].update(model=str(moved)))
    missing = edit("--session", "house", original="one.png")
    assert missing.exit_code == 2
    assert "is gone; say with --model" in said(missing)
    assert edit("--session", "house", "--model", model, original="one.png").exit_code == 0
    pipeline("v").save_pretrained(moved)
    other = edit("--session", "house", "--model", moved, original="out.png", output="other.png")
    assert other.exit_code == 1
    assert edits("house") == (["photograph", "edit", "edit"], 2)


def test_other_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pipeline("sd").save_pretrained("sd")
    save_png(picture("sd"), "a.png")
    save_png(painted(picture("sd")), "b.png")
    first = edit("--model", "sd", *EDIT, "--prompt", "a b", "--session", "house")
    assert first.exit_code == 0, first.output
    mask = np.zeros((64, 64), np.uint8)
    mask[40:48, 8:16] = 255
    Image.fromarray(mask).save("m.png")
    words = ["--prompt", "c d", "--negative", "e", "--mask", "m.png"]
    second = edit("--session", "house", *words, original="out.png", edited="out.png", output="two.png")
    assert second.exit_code == 0, second.output
    changed = (as_pixels("two.png") != as_pixels("out.png")).any(2)
    assert changed[40:48, 8:16].any()
    assert not changed[:20].any()
    found = json.loads(run("info", "house", "--json").stdout)
    assert [(v["prompt"], v["negative"]) for v in found["versions"]] == [("a b", "")] * 2 + [("c d", "e")]
    same = edit("--session", "house", *words[:2], original="two.png", edited="two.png", output="three.png")
    assert "nothing differs" in same.stdout


def test_words_per_area(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pipeline("sd").save_pretrained("sd")
    save_png(picture("sd"), "a.png")
    for name, left in (("one.png", 4), ("two.png", 40)):
        mask = np.zeros((64, 64), np.uint8)
        mask[40:48, left : left + 8] = 255
        Image.fromarray(mask).save(name)
    words = ["--area", "one.png=c d", "--area", "two.png=e = f"]
    found = edit("--model", "sd", *EDIT, "--prompt", "a b", "--session", "house", *words, edited="a.png")
    assert found.exit_code == 0, said(found)
    assert "edit, 3.12%" in found.stdout
    facts = json.loads(run("info", "house", "--json").stdout)["versions"]
    prompts = [area["prompt"] for area in facts[1]["areas"]]
    assert (facts[0]["areas"], facts[1]["prompt"], prompts) == (None, "a b", ["c d", "e = f"])
    assert "a b | c d" in run("info", "house").stdout
    changed = (as_pixels("out.png") != as_pixels("a.png")).any(2)
    assert changed[40:48, 4:12].any()
    assert changed[40:48, 40:48].any()
    assert not changed[:20].any()
    over = edit("--session", "house", *words, original="out.png", edited="out.png", output="one.png")
    assert "is a file that the edit reads" in said(over)


@pytest.mark.parametrize("asked", ["m.png", "m.png=", "=a", "missing.png=a", "m.png= "])
def test_areas_that_are_none(folder, model, no_model, asked):
    Image.fromarray(np.full((32, 32), 255, np.uint8)).save("m.png")
    result = edit("--model", model, *EDIT, "--area", asked, edited="a.png")
    assert result.exit_code == 2
    assert ("no file missing.png" if "missing" in asked else "is not MASK=PROMPT") in said(result)


def test_a_model_that_reads_no_words_takes_no_areas(folder, model):
    result = edit("--model", model, *EDIT, "--area", "a.png=a", edited="a.png")
    assert result.exit_code == 2
    assert "--area does not go with a model that reads no words" in said(result)


# Wrong usage


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--strength", "1.5"], "strength of 1.5"),
        (["--strength", "0"], "strength of 0"),
        (["--strength", "nan"], "strength of nan"),
        (["--guidance", "-1"], "guidance of -1"),
        (["--guidance", "inf"], "guidance of inf"),
        (["--seed", "-1"], "--seed"),
        (["--seed", str(2**63)], "not below 2**63"),
        (["--steps", "0"], "--steps"),
        (["--steps", "1001"], "--steps"),
        (["--threads", "0"], "--threads"),
        (["--policy", "nope"], "is not one of 'paper'"),
        (["--threshold", "-1"], "--threshold"),
        (["--threshold", "1", "--mask", "b.png"], "leave one of them away"),
        (["--instances", "a.png"], "--instances goes with models that make pictures from labels"),
        (["--scheduler", "nope"], "euler-a"),
        (["--storage", "fp8"], "bf16"),
        (["--memory", "much"], "is no size"),
        (["--device-memory", "much"], "is no size"),
        (["--device", "abacus"], "cannot compute on the device 'abacus'"),
        (["--mask", "missing.png"], "missing.png"),
        (["--mask", "text.png"], "not an image"),
        (["--mask", "small.png"], "16x16"),
        (["--preview", "nowhere/p.png"], "there is no folder nowhere"),
        (["--preview", "out.png"], "cannot both be written"),
        (["--session", "a.png"], "cannot make the session folder"),
        (["--session", "a.png/house"], "cannot make the session folder"),
        (["--session", "."], "keeps its own files"),
        (["--session", "full"], "holds no session and is not empty"),
        (["--model", "nope/nope/nope"], "there is no folder nope/nope/nope"),
        (["--model", "./nope"], "there is no folder ./nope"),
        (["--model", "a.png"], "is a file"),
        (["--model", "full"], "holds no diffusers pipeline"),
    ],
)
def test_wrong_options_are_found_before_a_model_is_loaded(folder, model, no_model, args, message):
    Path("text.png").write_text("no image")
    Image.new("L", (16, 16), 255).save("small.png")
    Path("full").mkdir()
    Path("full/file").touch()
    result = edit("--model", model, *args)
    assert result.exit_code == 2
    assert message in said(result).replace("│ ", "")
    assert not Path("out.png").exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"original": "none.png"}, "there is no file none.png"),
        ({"edited": "text.png"}, "not an image"),
        ({"edited": "small.png"}, "a.png is 32x32 pixels and small.png 16x16"),
        ({"output": "x.psd"}, "suffix"),
        ({"output": "nowhere/x.png"}, "there is no folder"),
        ({"output": "a.png"}, "overwrite it with --force"),
        ({"output": "./house/../b.png"}, "overwrite it with --force"),
    ],
)
def test_wrong_files(folder, model, no_model, names, message):
    Path("text.png").write_text("no image")
    Image.new("RGB", (16, 16)).save("small.png")
    result = edit("--model", model, **names)
    assert result.exit_code == 2
    assert message in said(result)


def test_force_overwrites_what_was_read(folder, model):
    before = as_pixels("a.png")
    result = edit("--model", model, *EDIT, "--force", output="a.png")
    assert result.exit_code == 0, result.output
    assert (as_pixels("a.png") != before).any()


def test_there_is_no_default_model(folder, no_model):
    result = edit()
    assert result.exit_code == 2
    assert "with --model" in said(result)


@pytest.mark.parametrize("existed", [False, True])
def test_what_the_model_refuses_leaves_no_session(folder, model, existed):
    if existed:
        Path("new").mkdir()
    words = edit("--model", model, "--session", "new", "--prompt", "a b", original="one.png", edited="one.png")
    assert words.exit_code == 2
    assert "takes no prompt" in said(words)
    few = edit("--model", model, "--session", "new", "--steps", 4, "--strength", 0.1)
    assert few.exit_code == 2
    assert not Path("out.png").exists()
    assert Path("new").is_dir() == existed
    assert not existed or not list(Path("new").iterdir())


def test_a_strength_that_was_not_recorded(folder):
    result = edit("--session", "house", "--strength", 1, original="one.png")
    assert result.exit_code == 2
    assert "not recorded" in said(result)
    assert edits("house") == (["photograph", "edit"], 1)


def test_a_failure_exits_with_one(folder, model, monkeypatch):
    def fail(*_, **__):
        raise OSError("the disk is on strike")

    monkeypatch.setattr("retouch.Editor.from_pretrained", fail)
    result = edit("--model", model)
    assert result.exit_code == 1
    assert said(result).endswith("retouch: the disk is on strike")


def test_a_damaged_session_is_refused(folder):
    layer = next((folder / "house" / "versions" / "0000").glob("000-*"))
    content = bytearray(layer.read_bytes())
    content[-1] ^= 1
    layer.write_bytes(content)
    result = edit("--session", "house", original="one.png")
    assert result.exit_code == 1
    assert "checksum differs" in said(result)


# Interruption

SCRIPT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent may have had it ignored
from retouch.cli import app
from retouch.editing.session import Calls
def press(method, count=[]):
    def pressed(*args, **kwargs):
        count.append(1)
        if len(count) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return method(*args, **kwargs)
    return pressed
name = sys.argv.pop(1)
setattr(Calls, name, press(getattr(Calls, name)))
app()
"""


def interrupted(*args, during):
    """Run `retouch` with a Ctrl-C at the third network call of a kind ("record" or "update")."""
    command = [sys.executable, "-c", SCRIPT, during, *map(str, args)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    return ran.returncode, ran.stdout, ran.stderr


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGINT to send")
@pytest.mark.parametrize("existed", [False, True])
def test_ctrl_c_while_recording_leaves_nothing(folder, model, existed):
    if existed:
        Path("new").mkdir()
    args = ["edit", "a.png", "b.png", "-o", "out.png", "--model", model, "--session", "new", "--steps", 12]
    code, output, errors = interrupted(*args, during="record")
    assert code == 130, errors
    assert errors.splitlines()[-1].startswith("retouch: interrupted; sessions keep")
    assert "Traceback" not in errors
    assert output == ""
    assert not Path("out.png").exists()
    assert Path("new").is_dir() == existed
    assert not existed or not list(Path("new").iterdir())


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGINT to send")
def test_ctrl_c_during_an_edit_keeps_the_last_state(folder, model):
    recorded = edit("--model", model, "--session", "new", "--steps", 12, "--seed", 1)
    assert recorded.exit_code == 0, recorded.output
    manifest = Path("new/manifest.json").read_bytes()
    save_png(painted(as_pixels("out.png"), 1, 1), "d.png")
    args = ["edit", "out.png", "d.png", "-o", "next.png", "--session", "new"]
    code, _, errors = interrupted(*args, during="update")
    assert code == 130, errors
    assert errors.splitlines()[-1].startswith("retouch: interrupted; sessions keep their last state")
    assert not Path("next.png").exists()
    assert Path("new/manifest.json").read_bytes() == manifest
    assert sorted(path.name for path in Path("new/versions").iterdir()) == ["0000", "0001-1"]


# The table


def test_dense_is_estimated_from_the_recording():
    recorded = {"steps": 10, "seconds": {"encode": 1.0, "denoise": 20.0, "decode": 2.0, "other": 0.5, "total": 23.5}}
    assert dense_estimate(recorded, 10) == 23.5
    assert dense_estimate(recorded, 5) == 13.5


def test_a_want_of_memory_is_one_line_and_loses_nothing(folder, model, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nOf it 1 GiB is reserved.")

    before = edits("house")
    monkeypatch.setattr(Incremental, "_result", fail)
    save_png(painted(as_pixels("one.png"), top=20), "two.png")
    result = edit("--session", "house", original="one.png", edited="two.png")
    assert result.exit_code == 1
    assert "did not suffice (CUDA out of memory. Tried to allocate 20.00 MiB.); nothing that was saved is lost" in said(
        result
    )
    for word in ("a smaller picture", "a narrower type", "--memory"):
        assert word in said(result)
    assert "Traceback" not in result.output
    assert "reserved" not in result.output
    assert edits("house") == before
    assert not Path("out.png").exists()
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert edit("--session", "house", original="one.png", edited="two.png").exit_code == 0
