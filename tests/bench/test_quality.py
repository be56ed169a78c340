"""The quality suite: every method on every edit, and the summaries that the report is made of."""

import json
import math

import numpy as np
import pytest
from typer.testing import CliRunner

from pipelines import picture, pipeline
from retouch.bench.quality import (
    CROP,
    METHODS,
    Gallery,
    QualityOptions,
    calibrated,
    curves,
    gain_of_probes,
    markdown,
    measure_quality,
    quality_plot,
    quality_table,
    rank_correlation,
    rms_error,
    summary,
)
from retouch.bench.report import write_json
from retouch.cli import app
from retouch.editing.images import save_png

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

SHOWN = ("balanced", "fast", "refreshed", CROP)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    pipeline("sd").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def gallery():
    return Gallery()


@pytest.fixture(scope="module")
def results(model, gallery):
    pictures = [(name, picture("sd", seed)) for seed, name in enumerate(("a b", "c d"))]
    options = QualityOptions(model, pictures, count=4, methods=SHOWN, steps=3, lpips=False)
    ticks = []
    found = list(measure_quality(options, ticks.append, gallery))
    assert len(ticks) == options.ticks
    return found


def test_every_method_runs_every_edit_against_one_reference(results):
    assert [r["method"] for r in results] == [name for name in SHOWN for _ in range(4)]
    for edit in range(4):
        of_edit = [r for r in results if r["edit"] == edit]
        assert len({r["share"] for r in of_edit}) == len({r["dense_seconds"] for r in of_edit}) == 1
        assert all(0 < r["psnr_inside"] <= 100 and r["seconds"] > 0 for r in of_edit)
        fast = next(r for r in of_edit if r["method"] == "fast")
        assert fast["macs"] < 1
    json.dumps(results)


def test_reports_are_made_of_them(results, tmp_path):
    assert quality_table(results).row_count == len(SHOWN)
    assert quality_plot(results).size == (900, 460)
    text = markdown(results, "the command", "plot.png", "sheet.png")
    assert all(part in text for part in ("the command", "plot.png", "sheet.png", "Error estimate of `balanced`"))
    assert all(f"| {name} |" in text for name in SHOWN)
    assert "dB in the median" in text
    assert all(len(points) for points in curves(results, SHOWN).values())
    write_json(tmp_path / "all.json", results)


def test_the_gallery_shows_one_edit_of_each_kind(results, gallery):
    shown = ("before", "edited", "dense", "balanced", CROP)
    assert set(gallery.tiles) == {(edit, name) for edit in range(4) for name in shown}
    assert gallery.sheet().width > len(shown) * 320
    captions = [gallery.tiles[0, name][0] for name in shown]
    assert captions[0] == "a b"
    assert f"{results[0]['psnr_inside']:.0f} dB" in captions[3]


def test_without_shown_methods_there_is_no_sheet(results):
    refreshed = [r for r in results if r["method"] == "refreshed"]
    assert "![one edit" not in markdown(refreshed, "the command", "plot.png", None)


def test_a_report_of_other_methods_is_written(model, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for seed, name in enumerate(("a b", "c d")):
        save_png(picture("sd", seed), pictures / f"{name}.png")
    report = tmp_path / "report.md"
    arguments = ["--model", model, "--images", str(pictures), "--count", "2", "--method", "refreshed"]
    result = CliRunner().invoke(app, ["bench", "--quality", *arguments, "--report", str(report)])
    assert result.exit_code == 0, result.output
    assert "| refreshed |" in report.read_text()
    assert sorted(path.name for path in tmp_path.glob("report*")) == ["report.md", "report.png"]


def made(method, edit, inside, **others):
    return {"method": method, "edit": edit, "psnr_inside": inside, **others}


def test_the_gain_is_over_the_better_one_of_the_edits_that_are_bad():
    found = [made("fast", 0, 30), made("refreshed", 0, 35), made("balanced", 0, 42),
             made("fast", 1, 39), made("refreshed", 1, 20), made("balanced", 1, 40),
             made("fast", 2, 41), made("refreshed", 2, 20), made("balanced", 2, 10)]  # fmt: skip
    assert gain_of_probes(found) == (4.0, 2)


def test_summaries_hold_medians_and_the_worst_tenth():
    keys = ("ssim_inside", "lpips_inside", "psnr", "ssim", "lpips", "seconds", "dense_seconds", "macs")
    found = summary([made("x", i, 30 + i, **dict.fromkeys(keys, 1.0)) for i in range(11)])
    assert found["psnr_inside"] == 35
    assert found["worst_tenth_db"] == 31


def test_an_estimate_that_follows_the_disagreement_is_found():
    random = np.random.default_rng(0)
    found = []
    for edit, disagreement in enumerate(np.exp(random.normal(size=40))):
        error = math.hypot(3 * disagreement, 2)
        found.append(made("balanced", edit, 20 * math.log10(255 / error), disagreement=disagreement))
        assert rms_error(found[-1]) == pytest.approx(error)
    everything = made("balanced", 40, 100.0, disagreement=0.0)
    fit = calibrated([*found, everything])
    assert (fit.gain, fit.floor, fit.factor) == pytest.approx((3, 2, 1), rel=0.06)
    assert fit.correlation == pytest.approx(1)
    scrambled = [{**r, "disagreement": other["disagreement"]} for r, other in zip(found, found[::-1], strict=True)]
    assert abs(calibrated(scrambled).correlation) < 0.5


def test_rank_correlation():
    assert rank_correlation([1, 2, 3], [10, 100, 1000]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)


def test_unknown_methods_are_refused():
    with pytest.raises(ValueError, match="unknown method 'other'; there are paper"):
        QualityOptions("model", (), methods=("other",))
    assert {"paper", "balanced", "fast", "exact"} <= set(METHODS)


def test_the_command_refuses_bad_input_before_it_runs(tmp_path):
    run = CliRunner().invoke
    for arguments, said in (
        (["--images", str(tmp_path)], "fewer than two PNG"),
        (["--method", "other"], "unknown method"),
        (["--report", str(tmp_path / "no" / "report.md")], "report.md"),
    ):
        result = run(app, ["bench", "--quality", *arguments])
        assert result.exit_code == 2, result.output
        assert said in " ".join(result.stderr.replace("│", " ").split())
