"""The quality suite: every method on every edit, and the summaries that the report is made of."""

import json
import math

import numpy as np
import pytest

from commands import run
from pipelines import picture, pipeline
from retouch.bench.quality import CROP, METHODS, Quality, calibrated, curves, rms_error, summaries
from retouch.editing.images import as_pixels, save_png
from retouch.errors import OptionError

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

SHOWN = ("balanced", "fast", "refreshed", CROP)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    pipeline("sd").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def suite(model, tmp_path_factory):
    """The suite on two pictures, without LPIPS."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed, name in enumerate(("a-b", "c d")):
        save_png(picture("sd", seed), folder / f"{name}.png")
    return Quality(model, folder, count=4, method=SHOWN, steps=3, lpips=False)


@pytest.fixture(scope="module")
def results(suite):
    suite.check()
    return list(suite.results())


def test_every_method_runs_every_edit_against_one_reference(results):
    assert [r["method"] for r in results] == [name for name in SHOWN for _ in range(4)]
    for edit in range(4):
        of_edit = [r for r in results if r["edit"] == edit]
        assert len({r["share"] for r in of_edit}) == len({r["dense_seconds"] for r in of_edit}) == 1
        assert all(0 < r["psnr_inside"] <= 100 and r["seconds"] > 0 for r in of_edit)
        fast = next(r for r in of_edit if r["method"] == "fast")
        assert fast["macs"] < 1
    json.dumps(results)


def test_reports_are_made_of_them(suite, results, tmp_path):
    (table,) = suite.tables(results)
    assert table.row_count == len(SHOWN)
    suite.write_report(tmp_path / "r.md", results, "the command")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r-edits.png", "r.md", "r.png"]
    text = (tmp_path / "r.md").read_text()
    assert all(part in text for part in ("`the command`", "(r.png)", "(r-edits.png)", "Error estimate of `balanced`"))
    assert all(text.count(f"| {name} |") == 2 for name in SHOWN)
    assert "dB by kind | stroke | paste |" in text
    assert all(len(points) for points in curves(results, SHOWN).values())
    assert as_pixels(tmp_path / "r.png").shape[2] == 3


def test_one_edit_of_each_kind_is_shown(suite, results):
    shown = ("before", "edited", "dense", "balanced", CROP)
    assert set(suite.tiles) == {(edit, name) for edit in range(4) for name in shown}
    captions = [suite.tiles[0, name][0] for name in shown]
    assert captions[0] == "a b"
    assert f"{results[0]['psnr_inside']:.0f} dB" in captions[3]


def test_a_report_of_other_methods_is_written_without_a_sheet(model, suite, tmp_path, monkeypatch):
    monkeypatch.setattr("retouch.bench.quality.trained", lambda: None)
    report = tmp_path / "report.md"
    arguments = ["--model", model, "--images", suite.images, "--count", 2, "--method", "refreshed"]
    result = run("bench", "quality", *arguments, "--report", report)
    assert result.exit_code == 0, result.output
    assert "| refreshed |" in report.read_text()
    assert "retouch bench quality --model" in report.read_text()
    assert sorted(path.name for path in tmp_path.glob("report*")) == ["report.md", "report.png"]


def made(method, edit, inside, **others):
    return {"method": method, "edit": edit, "psnr_inside": inside, **others}


def test_summaries_hold_medians_and_the_worst_tenth():
    keys = ("ssim_inside", "lpips_inside", "psnr", "ssim", "lpips", "seam", "seconds", "dense_seconds", "macs")
    (found,) = summaries([made("x", i, 30 + i, **dict.fromkeys(keys, 1.0)) for i in range(11)])
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


def test_what_cannot_be_measured_is_named(tmp_path):
    with pytest.raises(OptionError, match="unknown method 'other'; choose from: paper"):
        Quality(method=("other",)).check()
    with pytest.raises(OptionError, match="fewer than two PNG"):
        Quality(images=tmp_path).check()
    assert {"paper", "balanced", "fast", "exact", "balanced, text recorded", "fast, keys again"} <= set(METHODS)
