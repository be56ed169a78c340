"""The benchmark of halos, on a tiny network in place of the trained ones."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import retouch
from commands import run
from models.test_super_resolution import written
from retouch.bench.edits import photograph
from retouch.bench.halo import Halo, drawn_edits, errors
from retouch.bench.options import HALOS
from retouch.bench.report import save_plots
from retouch.bench.trial import UPDATES_PER_ROUND
from retouch.editing.gan import upscaler
from retouch.editing.gan.upscaler import Pretrained
from retouch.editing.images import as_pixels
from retouch.models.super_resolution import SRVGG
from support import fill

NAME = "builtin/realesr-animevideov3-x4"
REACH = 5
"""Pixels that the tiny network sees around each."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Tiny weights in place of the trained ones."""
    folder = tmp_path_factory.mktemp("weights")
    Path(folder, "tiny.bin").write_bytes(written(fill(SRVGG(3, 8), 0)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(upscaler.PRETRAINED, NAME, Pretrained(lambda: SRVGG(3, 8), "tiny.bin", "exact"))
        patch.setattr(upscaler, "weight_file", lambda name: folder / name)
        yield


@pytest.fixture(scope="module")
def measured(weights):
    suite = Halo(NAME, (REACH, 0, 1, 1), side=48, no_compile=True, repeat=2)
    suite.check()
    return list(suite.results())


def test_every_edit_has_every_halo(measured):
    assert [(each["edit_label"], each["halo"]) for each in measured] == [
        (name, halo) for name in ("stroke", "patch") for halo in (0, 1, REACH)
    ]
    for each in measured:
        assert each["update_ms"] > 0
        assert each["speedup"] == each["dense_ms"] / each["update_ms"]
        assert each["spread"]["record"]["samples"] == 2
        assert each["spread"]["update"]["samples"] == 2 * UPDATES_PER_ROUND
        assert each["machine"]["threads"] >= 1


def test_errors_shrink_with_the_halo_and_end_at_rounding(measured):
    for edit in (measured[:3], measured[3:]):
        most = [each["update_max_err"] for each in edit]
        assert most[0] > most[1] > most[2]
        assert edit[-1]["update_max_err_image"] < 0.01
        assert edit[-1]["update_psnr_db"] is None or edit[-1]["update_psnr_db"] > 90
        macs = [each["macs_active"] for each in edit]
        assert macs[0] < macs[1] < macs[2] < edit[0]["macs_dense"]
        assert all(each["update_psnr_image_db"] > each["nothing_psnr_image_db"] for each in edit)


def test_a_halo_in_the_mask_is_that_of_the_policy(weights):
    """What the benchmark relies on to measure all halos with one recording."""
    module = upscaler.Upscaler.from_pretrained(NAME).module
    x = torch.zeros(1, 3, 48, 48)
    drawn = retouch.Region((drawn_edits(photograph(48))["stroke"] != photograph(48)).any(2)[None])
    plain = retouch.compile(module, x, policy=replace(retouch.Policy.named("balanced"), dilate=0))
    for halo in (0, 3):
        grown = retouch.compile(module, x, policy=replace(retouch.Policy.named("balanced"), dilate=halo))
        assert torch.equal(grown.active_mask(drawn), plain.active_mask(drawn.dilated(halo)))


@pytest.mark.parametrize("side", [32, 256, 512])
def test_edits_are_small(side):
    photo = photograph(side)
    assert photo.shape == (side, side, 3)
    edits = drawn_edits(photo)
    assert list(edits) == ["stroke", "patch"]
    for pixels in edits.values():
        assert 0.008 < (pixels != photo).any(2).mean() < 0.02


def test_errors_are_counted_in_the_edit_and_over_the_picture():
    truth = torch.zeros(1, 3, 8, 8)
    picture = truth.clone()
    picture[..., 0, 0], picture[..., 4, 4] = 7.0, -3.0  # clamped to 1 and 0
    mask = np.array([[True, False], [False, False]])
    found = errors("x", picture, truth, mask)
    assert found["x_max_err"] == found["x_max_err_image"] == 255
    assert found["x_psnr_db"] == pytest.approx(10 * np.log10(16))
    assert found["x_psnr_image_db"] == pytest.approx(10 * np.log10(64))
    assert errors("x", truth, truth, mask)["x_psnr_db"] is None


def test_results_are_json_a_table_and_a_plot(measured, tmp_path):
    assert json.loads(json.dumps(measured, allow_nan=False)) == measured
    text = StringIO()
    Console(file=text, width=80).print(Halo().tables(measured)[0])
    assert "…" not in text.getvalue()
    assert all(len(line) <= 80 for line in text.getvalue().splitlines())
    assert "stroke" in text.getvalue()
    equal = [{**measured[0], "update_psnr_db": None}, *measured[1:]]
    for results in (measured, equal):
        plots = Halo().plots(results)
        assert [len(plot.curves) for plot in plots] == [4, 4]
        assert sum(map(len, plots[0].curves.values())) == sum(
            (each["update_psnr_db"] is not None) + (each["update_psnr_image_db"] is not None) for each in results
        )
        assert as_pixels(save_plots(tmp_path / "p.png", plots)).shape == (460, 1520, 3)


def test_the_command_writes_what_it_measured(weights, tmp_path):
    out, plot = tmp_path / "out.json", tmp_path / "plot.png"
    args = ["--model", NAME, "--side", 32, "--dilate", 3, "--dilate", 0, "--repeat", 1, "--no-compile"]
    result = run("bench", "halo", *args, "--json", out, "--plot", plot)
    assert result.exit_code == 0, result.output
    assert [each["halo"] for each in json.loads(out.read_text())] == [0, 3, 0, 3]
    assert as_pixels(plot).shape[2] == 3
    assert "error against halo" in result.stdout


def test_default_halos_hold_the_presets():
    assert retouch.Policy.named("balanced").dilate in HALOS
    assert list(HALOS) == sorted(set(HALOS))
