"""`retouch edit` with models that run once: super-resolution, and pictures from labels."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from commands import run, said
from models.test_super_resolution import written
from pipelines import painted, picture
from retouch.editing.gan import upscaler
from retouch.editing.gan.upscaler import Pretrained
from retouch.editing.images import as_integers, as_pixels, from_tensor, save_png
from retouch.models import spade
from retouch.models.super_resolution import SRVGG
from support import fill

NAME = "builtin/realesr-animevideov3-x4"


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A folder with a.png and b.png, and tiny weights in place of the trained ones."""
    monkeypatch.chdir(tmp_path)
    save_png(picture("ddpm"), "a.png")
    save_png(painted(picture("ddpm")), "b.png")
    Path("tiny.bin").write_bytes(written(fill(SRVGG(3, 8), 0)))
    monkeypatch.setitem(upscaler.PRETRAINED, NAME, Pretrained(lambda: SRVGG(3, 8), "tiny.bin", "exact"))
    monkeypatch.setattr(upscaler, "weight_file", lambda name: tmp_path / name)


@pytest.fixture
def street(tmp_path, monkeypatch):
    """A folder with a.png and b.png, maps of labels, and the checkpoint net_G.pth."""
    monkeypatch.chdir(tmp_path)
    labels = np.random.default_rng(0).integers(0, 5, (4, 8)).repeat(16, 0).repeat(16, 1).astype(np.uint8)
    Image.fromarray(labels).save("a.png")
    labels[10:20, 30:40] = (labels[10:20, 30:40] + 1) % 5
    Image.fromarray(labels).save("b.png")
    things = np.arange(128).reshape(8, 16).repeat(8, 0).repeat(8, 1).astype(np.int32) + 26000
    Image.fromarray(things.astype(np.uint16)).save("things.png")
    things[10:20, 30:40] = 70000
    np.save("joined.npy", things)
    torch.save(fill(spade.spade(4, 6), 0).state_dict(), "net_G.pth")


def edit(*args, original="a.png", edited="b.png", output="out.png"):
    return run("edit", original, edited, "-o", output, *args)


AREAS = ("--model", "net_G.pth", "--instances", "areas")
THINGS = ("--model", "net_G.pth", "--instances", "things.png", "--policy", "exact")


def test_an_edit_is_enlarged(small):
    result = edit("--model", NAME, "--preview", "p.png")
    assert result.exit_code == 0, result.output
    assert as_pixels("out.png").shape == (128, 128, 3)
    for word in ("dense (estimate)", "record, once", "edit, 2.44% of the picture"):
        assert word in result.stdout
    assert Path("p.png").exists()


def test_nothing_to_edit_is_enlarged_too(small):
    result = edit("--model", NAME, edited="a.png")
    assert result.exit_code == 0, result.output
    assert as_pixels("out.png").shape == (128, 128, 3)


def test_an_upscaled_session_goes_on_and_back(small):
    assert edit("--model", NAME, "--session", "s").exit_code == 0
    save_png(painted(as_pixels("b.png"), 22, 3), "c.png")
    result = edit("--session", "s", original="b.png", edited="c.png", output="two.png")
    assert result.exit_code == 0, result.output
    assert "record, earlier" in result.stdout
    shown = run("info", "s")
    assert shown.exit_code == 0, shown.output
    assert "upscale, 32x32 pixels" in shown.stdout
    assert json.loads(run("info", "s", "--json").stdout)["current"] == 2
    assert run("undo", "s", "-o", "one.png").exit_code == 0
    assert Path("one.png").read_bytes() == Path("out.png").read_bytes()
    result = edit("--session", "s", original="c.png", edited="b.png")
    assert result.exit_code == 2
    assert "go there first: `retouch go s 2`" in said(result)


def test_labels_become_a_picture(street):
    result = edit(*AREAS, "--preview", "p.png", "--session", "s", "--policy", "exact")
    assert result.exit_code == 0, result.output
    assert as_pixels("out.png").shape == (64, 128, 3)
    assert "of the picture" in result.stdout
    assert len(np.unique(as_pixels("p.png").reshape(-1, 3), axis=0)) > 5
    ids = as_integers("b.png")
    ids[40:50, 80:90] = 2
    Image.fromarray(ids.astype(np.uint8)).save("c.png")
    again = edit("--session", "s", original="b.png", edited="c.png", output="two.png")
    assert again.exit_code == 0, again.output
    assert "labels, 128x64 pixels" in run("info", "s").stdout


OF_DIFFUSION = (
    "--prompt", "--negative", "--class-label", "--steps", "--seed", "--scheduler", "--vae", "--strength", "--guidance",
    "--max-error",
)  # fmt: skip


@pytest.mark.parametrize("option", OF_DIFFUSION)
def test_options_of_diffusion_models_are_refused(small, option):
    value = {"--prompt": "x", "--scheduler": "ddim", "--strength": "0.5"}.get(option, "3")
    result = edit("--model", NAME, option, value)
    assert result.exit_code == 2
    assert f"{option} does not go with" in said(result).replace("│ ", "")


def test_labels_differ_or_they_do_not(street):
    result = edit(*AREAS, "--threshold", "1")
    assert result.exit_code == 2
    assert "--threshold goes with pictures" in said(result)


def test_unknown_built_in_models(small):
    result = edit("--model", "builtin/other")
    assert result.exit_code == 2
    assert "unknown built-in model 'builtin/other'" in said(result).replace("│ ", "")


def dense(labels, instances):
    """The picture that a whole run makes of these files."""
    ids = [torch.from_numpy(as_integers(file)) for file in (labels, instances)]
    with torch.no_grad():
        return from_tensor(spade.from_checkpoint(Path("net_G.pth"))(spade.semantics(ids[0], 5, ids[1]))).astype(int)


def test_instances_are_read_when_recording_and_when_editing(street):
    assert edit(*THINGS).exit_code == 0
    assert np.abs(as_pixels("out.png") - dense("b.png", "things.png")).max() <= 1
    assert np.abs(as_pixels("out.png") - dense("b.png", "b.png")).max() > 1
    assert edit(*THINGS, "--instances", "joined.npy").exit_code == 0
    assert np.abs(as_pixels("out.png") - dense("b.png", "joined.npy")).max() <= 1


def test_a_session_keeps_its_instances_and_takes_others(street):
    assert edit(*THINGS, "--session", "s", edited="a.png").exit_code == 0
    result = edit("--session", "s", output="one.png")
    assert result.exit_code == 0, result.output
    assert np.abs(as_pixels("one.png") - dense("b.png", "things.png")).max() <= 1
    result = edit("--session", "s", "--instances", "joined.npy", original="b.png", output="two.png")
    assert result.exit_code == 0, result.output
    assert np.abs(as_pixels("two.png") - dense("b.png", "joined.npy")).max() <= 1
    assert len(json.loads(run("info", "s", "--json").stdout)["versions"]) == 3


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model", "net_G.pth"], "net_G.pth reads the edges of instances: name their map with --instances"),
        ([*THINGS, "--instances", "a.png", "--instances", "b.png"], "names one map for ORIGINAL and one for EDITED"),
        ([*AREAS, "--instances", "things.png"], "there is no file areas"),
        (["--model", "net_G.pth", "--instances", "none.png"], "there is no file none.png"),
        (["--model", "net_G.pth", "--instances", "small.png"], "ids small.png is 64x32, but the picture is 128x64"),
        ([*THINGS, "--instances", "small.png"], "ids small.png is 64x32, but the picture is 128x64"),
        (["--model", "net_G.pth", "--instances", "colours.png"], "ids colours.png is not one channel"),
        ([*THINGS, "-o", "things.png"], "things.png is a file that the edit reads"),
        (["--model", NAME, "--instances", "things.png"], "goes with models that make pictures from labels"),
    ],
)
def test_instances_that_do_not_fit(street, args, message):
    Image.fromarray(np.zeros((32, 64), np.uint8)).save("small.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 9, (64, 128, 3)).astype(np.uint8)).save("colours.png")
    refused(edit(*args), message)


def refused(result, message):
    """The command said so in one line and wrote nothing."""
    assert result.exit_code == 2
    assert message in said(result)
    assert result.stderr.count("\n") == 1
    assert not Path("out.png").exists()


def test_a_session_keeps_to_having_instances_or_none(street):
    for name, made in (("mapped", THINGS), ("plain", AREAS)):
        assert edit(*made, "--session", name, edited="a.png", output="first.png").exit_code == 0
    file = ("--instances", "things.png")
    refused(edit("--session", "mapped", "--instances", "areas"), "mapped was recorded with a map of instances")
    refused(edit("--session", "mapped", *file, *file), "names one map for ORIGINAL and one for EDITED")
    refused(edit("--session", "plain", *file), "plain was recorded without a map of instances")
    assert edit("--session", "plain", "--instances", "areas").exit_code == 0


def unknown_label(name):
    ids = as_integers(name)
    ids[3, 6] = 7
    Image.fromarray(ids.astype(np.uint8)).save(name)


@pytest.mark.parametrize(("name", "which"), [("a.png", "ORIGINAL"), ("b.png", "EDITED")])
def test_labels_that_the_network_does_not_know(street, name, which):
    unknown_label(name)
    known = f"{which}: there is no label 7 (at x 6, y 3; 1 pixels in all): the network knows 0 to 4"
    result = edit(*AREAS)
    assert result.exit_code == 2
    assert known in said(result)
    assert not Path("out.png").exists()


def test_labels_that_a_session_does_not_know(street):
    assert edit(*AREAS, "--session", "s", edited="a.png", output="first.png").exit_code == 0
    unknown_label("b.png")
    refused(edit("--session", "s"), "EDITED: there is no label 7")


def test_labels_of_a_size_that_the_network_does_not_divide(street):
    for name in ("a.png", "b.png"):
        Image.fromarray(as_integers(name)[:63].astype(np.uint8)).save(name)
    result = edit(*AREAS)
    assert result.exit_code == 2
    assert "a map of 128x63 does not fit: width and height must be multiples of 64" in said(result)
    assert not Path("out.png").exists()


def test_a_checkpoint_that_is_none(street):
    Path("net_G.pth").write_bytes(b"no")
    result = edit(*AREAS)
    assert result.exit_code in (1, 2)
    assert "net_G.pth" in said(result)
    assert "Traceback" not in result.output
