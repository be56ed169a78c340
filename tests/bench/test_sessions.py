"""The benchmark of editing sessions, on tiny pipelines."""

import json
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from retouch.bench.edits import square
from retouch.bench.harness import Progress
from retouch.bench.sessions import Sessions, break_even, moved, outside_networks
from retouch.errors import OptionError
from retouch.models.pipelines import PIPELINES

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def measured(suite):
    suite.check()
    said = []
    results = list(suite.results(Progress(lambda *x: said.append(x))))
    assert [done for _, done in said] == sorted(done for _, done in said)
    return results


@pytest.fixture(scope="module", params=PIPELINES)
def exact(request):
    options = Sessions((request.param,), (0.02,), steps=(2,), policy="exact", tiny=True)
    return measured(options)[0]


@pytest.fixture(scope="module")
def fast():
    return measured(Sessions(edit=(0.01, 0.1), steps=(2, 3), storage="bf16", memory=0, repeat=2, tiny=True))


def test_exact_update_is_the_dense_reference(exact):
    assert exact["update_psnr_db"] is None or exact["update_psnr_db"] > 60
    assert exact["update_mean_abs_err_image"] < 0.01
    for other in ("crop", "img2img", "nothing"):
        assert exact[f"{other}_mean_abs_err"] > 10 * exact["update_mean_abs_err"]


def test_pixels_outside_stay_except_in_plain_image_to_image(exact, fast):
    for result in (exact, *fast):
        assert result["dense_outside_unchanged"]
        assert result["update_outside_unchanged"]
        assert result["crop_outside_unchanged"]
        assert not result["img2img_outside_unchanged"]


def test_times_and_sizes_are_plausible(exact):
    assert all(exact[f"{name}_ms"] > 0 for name in ("dense", "img2img", "crop", "record", "update", "next_update"))
    for run in ("dense", "update"):
        parts = dict(exact[f"{run}_parts_ms"])
        assert parts["denoise"] < parts["total"] <= 1.01 * exact["spread"][run]["max"]
    assert 0 < exact["outside_networks"] < 1
    assert exact["speedup"] == exact["dense_ms"] / exact["update_ms"]
    assert exact["spread"]["update"]["samples"] == 3
    assert exact["steps"] * exact["step_bytes"] <= exact["session_bytes"]
    assert exact["session_file_bytes"] == 0
    assert exact["edit_bytes"] > 0


def test_dense_layout_is_the_quickest_of_each_network(exact):
    networks = {"denoiser"} if exact["model"] == "ddpm-256" else {"denoiser", "encoder", "decoder"}
    assert set(exact["dense_kinds"]) == networks
    for name, kind in exact["dense_kinds"].items():
        times, convolves = (
            exact["dense_layouts_ms"][name],
            name != "denoiser" or exact["model"].startswith(("ddpm", "sd")),
        )
        assert set(times) == ({"eager", "channels_last"} if convolves else {"eager"})
        assert times[kind] == min(times.values())


def test_every_number_of_steps_and_edit_gives_a_result(fast):
    assert [(each["steps"], each["edit_label"]) for each in fast] == [(2, "0.01"), (2, "0.1"), (3, "0.01"), (3, "0.1")]
    assert {each["spread"]["dense"]["samples"] for each in fast} == {2}
    assert {each["spread"]["update"]["samples"] for each in fast} == {4}


def test_without_memory_recordings_are_in_files(fast):
    for result in fast:
        assert result["session_memory_bytes"] == 0
        assert result["session_file_bytes"] >= result["steps"] * result["step_bytes"]
        assert 0 < result["edit_read_bytes"] < result["session_bytes"]
    assert fast[0]["edit_bytes"] < fast[1]["edit_bytes"]


def test_results_are_json_and_fit_a_table(exact, fast):
    results = [exact, *fast]
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    text = StringIO()
    Console(file=text, width=80).print(Sessions().tables(results)[0])
    shown = text.getvalue()
    assert "…" not in shown
    assert all(len(line) <= 80 for line in shown.splitlines())
    for word in (exact["model"], "3, 0.1", "random weights"):
        assert word in shown


def test_table_says_what_must_not_happen(exact):
    bad = {**exact, "update_outside_unchanged": False, "break_even": None, "update_psnr_db": None, "unevenness": 9.0}
    text = StringIO()
    Console(file=text, width=80).print(Sessions().tables([bad])[0])
    for word in ("changed!", "never", "equal"):
        assert word in text.getvalue()
    assert "a busy machine" in Sessions().notes([bad])[0]
    assert Sessions().notes([{**bad, "unevenness": 1.2}]) == []


@pytest.mark.parametrize(
    ("record", "update", "dense", "expected"),
    [
        (10, 1, 10, 2),
        (8.9, 1, 10, 1),
        (9, 1, 10, 2),  # equal after one edit is not yet quicker
        (90, 5, 10, 19),
        (1, 10, 10, None),
        (1, 11, 10, None),
    ],
)
def test_break_even_is_the_first_number_of_edits_that_pays(record, update, dense, expected):
    assert break_even(record, update, dense) == expected
    if expected:
        assert record + expected * update < expected * dense
        assert expected == 1 or record + (expected - 1) * update >= (expected - 1) * dense


def test_what_cannot_be_measured_is_named():
    with pytest.raises(OptionError, match=r"unknown pipeline 'nope'.*ddpm-256, sd15"):
        Sessions(("nope",)).check()


def test_second_edit_is_elsewhere_and_as_large():
    mask = square(0.012, (256, 256)).mask.numpy()
    other = moved(mask)
    assert other.sum() == mask.sum()
    assert not (other & mask).any()
    assert other[-1].sum() == other[:, -1].sum() == 0
    full = np.ones((8, 8), np.bool_)
    assert moved(full).all()


def test_share_outside_networks():
    seconds = {"encode": 1.0, "denoise": 6.0, "decode": 1.0, "schedule": 1.0, "other": 1.0, "total": 10.0}
    assert outside_networks(seconds) == pytest.approx(0.2)
