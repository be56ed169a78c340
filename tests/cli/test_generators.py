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
from retouch.gan import upscaler
from retouch.gan.upscaler import Pretrained
from retouch.images import as_integers, as_pixels, save_png
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
    monkeypatch.setattr(upscaler, "_weight_file", lambda name: tmp_path / name)


@pytest.fixture
def street(tmp_path, monkeypatch):
    """A folder with a.png and b.png, maps of labels, and the checkpoint net_G.pth."""
    monkeypatch.chdir(tmp_path)
    labels = np.random.default_rng(0).integers(0, 5, (4, 8)).repeat(16, 0).repeat(16, 1).astype(np.uint8)
    Image.fromarray(labels).save("a.png")
    labels[10:20, 30:40] = (labels[10:20, 30:40] + 1) % 5
    Image.fromarray(labels).save("b.png")
    torch.save(fill(spade.spade(4, 6), 0).state_dict(), "net_G.pth")


def edit(*args, original="a.png", edited="b.png", output="out.png"):
    return run("edit", original, edited, "-o", output, *args)


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
    assert "go there first: `retouch redo s`" in said(result)


def test_labels_become_a_picture(street):
    result = edit("--model", "net_G.pth", "--preview", "p.png", "--session", "s", "--policy", "exact")
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


@pytest.mark.parametrize("option", ["--prompt", "--steps", "--seed", "--scheduler", "--strength", "--guidance"])
def test_options_of_diffusion_models_are_refused(small, option):
    value = {"--prompt": "x", "--scheduler": "ddim", "--strength": "0.5"}.get(option, "3")
    result = edit("--model", NAME, option, value)
    assert result.exit_code == 2
    assert f"{option} does not go with" in said(result).replace("│ ", "")


def test_unknown_built_in_models(small):
    result = edit("--model", "builtin/other")
    assert result.exit_code == 2
    assert "unknown built-in model 'builtin/other'" in said(result).replace("│ ", "")


@pytest.mark.parametrize(("label", "message"), [(7, "there is no label 7"), (0, None)])
def test_labels_that_the_network_does_not_know(street, label, message):
    ids = as_integers("b.png")
    ids[0, 0] = label
    Image.fromarray(ids.astype(np.uint8)).save("b.png")
    result = edit("--model", "net_G.pth")
    if message is None:
        assert result.exit_code == 0
    else:
        assert result.exit_code == 1
        assert message in said(result)
        assert not Path("out.png").exists()


def test_a_checkpoint_that_is_none(street):
    Path("net_G.pth").write_bytes(b"no")
    result = edit("--model", "net_G.pth")
    assert result.exit_code in (1, 2)
    assert "net_G.pth" in said(result)
    assert "Traceback" not in result.output
