"""`retouch bench`, `explain` and `demo`: bad input, and the shape of what is written."""

import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn

from commands import run, said
from kernels.interpreter import CPU, Graphs
from retouch import kernels, models
from retouch.bench import Edit, markdown, read_mask, restless, square
from retouch.bench.measure import UPDATES_PER_ROUND, compare
from retouch.models.pipelines import PIPELINES

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

TINY = ["--model", "resnet-generator", "--tiny", "--no-compile", "--repeat", "1"]
KEYS = {
    "model",
    "edit",
    "policy",
    "dtype",
    "device",
    "dense_ms",
    "dense_kind",
    "dense_eager_ms",
    "dense_channels_last_ms",
    "dense_compiled_ms",
    "record_ms",
    "record_over_dense",
    "update_ms",
    "update_cached_ms",
    "update_replayed_ms",
    "speedup_replayed",
    "undo_ms",
    "speedup",
    "macs_dense",
    "macs_active",
    "kept_bytes",
    "peak_rss_bytes",
    "compile_s",
    "packed_bytes",
    "max_abs_err",
    "rel_err",
    "outside_unchanged",
    "machine",
    "spread",
    "fallbacks",
}


def test_list_shows_every_network():
    result = run("bench", "--list")
    assert result.exit_code == 0
    for name in ("ddpm-256", "sd15-unet", "taesd", "sd3"):
        assert name in result.output


def test_list_of_sessions_shows_every_pipeline():
    result = run("bench", "--session", "--list")
    assert result.exit_code == 0
    for name, summary in PIPELINES.items():
        assert name in result.output
        assert summary.split(",")[0] in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "--model", "nope"], "choose from: ddpm-256, sd15-unet"),
        (["explain", "nope"], "choose from: ddpm-256, sd15-unet"),
        (["bench", "--policy", "nope"], "balanced"),
        (["demo", "--policy", "nope"], "balanced"),
        (["demo", "--device", "abacus"], "cannot compute on the device 'abacus'"),
        (["bench", "--edit", "0"], "above 0 and at most 1"),
        (["explain", "dit", "--edit", "1.5"], "above 0 and at most 1"),
        (["bench", "--edit", "nan"], "above 0 and at most 1"),
        (["bench", "--mask", "missing.png"], "cannot read the mask"),
        (["bench", "--json", "missing/out.json"], "cannot write"),
        (["bench", "--dtype", "int8"], "bfloat16"),
        (["bench", "--predict", "h100", "--dtype", "tf32", "--dtype", "float32"], "takes one --dtype"),
        (["bench", "--session", "--report", "a.md"], "does not go with --session"),
        (["bench", "--backend", "nope"], "reference"),
        (["bench", "--repeat", "0"], "--repeat"),
        (["bench", "--steps", "3"], "--steps needs --session"),
        (["bench", "--storage", "bf16"], "--storage needs --session"),
        (["bench", "--memory", "1GB"], "--memory needs --session"),
        (["bench", "--session", "--dtype", "float32"], "--dtype does not go with --session"),
        (["bench", "--session", "--dilate", "3"], "--dilate does not go with --session"),
        (["bench", "--session", "--device", "cpu"], "--device does not go with --session"),
        (["bench", "--device", "abacus"], "cannot compute on the device 'abacus'"),
        (["bench", "--dtype", "tf32"], "--dtype tf32 needs --predict"),
        (["bench", "--dtype", "float16"], "--dtype float16: the cpu backend computes in float32 or bfloat16 on cpu"),
        (["explain", "dit", "--dtype", "float16", "--backend", "reference"], "the reference backend computes in"),
        (["bench", "--predict", "abacus"], "choose from: rtx3090, a100, h100, m1pro"),
        (["bench", "--predict", "h100", "--model", "nope"], "choose from: ddpm-256, sd15-unet"),
        (["bench", "--predict", "h100", "--edit", "0"], "above 0 and at most 1"),
        (["bench", "--predict", "h100", "--mask", "missing.png"], "cannot read the mask"),
        (["bench", "--predict", "h100", "--repeat", "2"], "--repeat does not go with --predict"),
        (["bench", "--predict", "h100", "--session"], "--session does not go with --predict"),
        (["bench", "--predict", "m1pro", "--dtype", "tf32"], "no published peak for tf32"),
        (["bench", "--predict", "h100", "--report", "missing/out.md"], "cannot write"),
        (["bench", "--session", "--no-compile"], "--no-compile does not go with --session"),
        (["bench", "--session", "--model", "nope"], "choose from: ddpm-256, sd15"),
        (["bench", "--session", "--steps", "0"], "--steps"),
        (["bench", "--session", "--memory", "4"], "is no size"),
        (["bench", "--session", "--policy", "fast", "--policy", "exact"], "one policy at a time"),
        (["bench", "--session", "--mask", "missing.png"], "cannot read the mask"),
        (["bench", "--session", "--json", "missing/out.json"], "cannot write"),
    ],
)
def test_bad_input_is_named_on_stderr(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert result.stdout == ""


def test_demo_refuses_a_file_as_folder(tmp_path):
    path = tmp_path / "file"
    path.touch()
    result = run("demo", "--output", path)
    assert result.exit_code == 2
    assert "cannot make the folder" in result.stderr


def test_mask_of_another_size_names_both(tmp_path):
    path = tmp_path / "mask.png"
    Image.new("L", (20, 30), 255).save(path)
    result = run("bench", "--mask", path)
    assert result.exit_code == 2
    assert "20x30" in result.stderr
    assert "256x256" in result.stderr


def test_empty_mask_is_refused(tmp_path):
    path = tmp_path / "mask.png"
    Image.new("L", (64, 64), 0).save(path)
    with pytest.raises(ValueError, match="empty"):
        read_mask(path, (64, 64))


def test_a_mask_that_is_no_image_is_refused(tmp_path):
    path = tmp_path / "mask.png"
    path.write_text("no image")
    with pytest.raises(ValueError, match="cannot read the mask"):
        read_mask(path, (64, 64))


def test_mask_pixels_are_the_bright_ones(tmp_path):
    image = Image.new("RGB", (4, 2))
    image.putpixel((3, 1), (255, 255, 255))
    image.save(tmp_path / "mask.png")
    edit = read_mask(tmp_path / "mask.png", (2, 4))
    assert edit.mask.nonzero().tolist() == [[1, 3]]


@pytest.mark.parametrize("size", [(256, 256), (64, 64), (256, 512), (7, 300)])
@pytest.mark.parametrize("fraction", [1e-9, 0.012, 0.15, 0.5, 1.0])
def test_square_covers_its_share(size, fraction):
    edit = square(fraction, size)
    pixels = size[0] * size[1]
    assert edit.mask.shape == size
    assert edit.mask.any()
    assert abs(edit.fraction - fraction) * pixels <= 0.5 * max(size) + 1


def test_square_is_off_the_grid_and_near_the_middle():
    rows, cols = square(0.012, (256, 256)).mask.nonzero().aminmax(dim=0)
    assert (rows % 8).tolist() == [3, 5]
    assert abs((rows + cols) / 2 - 128).max() <= 8


def test_compare_measures_inside_and_checks_outside():
    before, truth = torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 2.0)
    active = torch.tensor([[[[True, False], [False, False]]]])
    after = before.clone()
    after[0, 0, 0, 0] = 1.5
    found = compare(before, after, truth, active)
    assert found["max_abs_err"] == 0.5
    assert found["rel_err"] == pytest.approx(0.25)
    assert found["rel_change"] == pytest.approx(1)
    assert found["outside_unchanged"]
    after[0, 0, 1, 1] = 1e-6
    assert not compare(before, after, truth, active)["outside_unchanged"]


def test_bench_writes_a_result_for_every_edit_and_policy(tmp_path):
    path = tmp_path / "out.json"
    result = run(
        *["bench", *TINY, "--edit", 0.012, "--edit", 1, "--policy", "fast", "--policy", "paper"],
        *["--json", path, "--threads", torch.get_num_threads()],
    )
    assert result.exit_code == 0, result.output
    found = json.loads(path.read_text())
    assert [(each["policy"], each["edit_label"]) for each in found] == [
        ("fast", "0.012"),
        ("fast", "1"),
        ("paper", "0.012"),
        ("paper", "1"),
    ]
    for each in found:
        assert set(each) >= KEYS
        assert each["dense_ms"] == min(each["dense_eager_ms"], each["dense_channels_last_ms"])
        assert each["dense_compiled_ms"] is None
        assert each["speedup"] == pytest.approx(each["dense_ms"] / each["update_ms"])
        assert each["outside_unchanged"]
        assert 0 < each["macs_active"] <= each["macs_dense"]
    assert "resnet-generator" in result.output


def test_bench_reports_types_and_edits_beside_what_was_published(tmp_path):
    report, path = tmp_path / "gpu.md", tmp_path / "out.json"
    arguments = ["--model", "ddpm-256", *TINY[2:], "--dtype", "float32", "--dtype", "bfloat16", "--edit", "0.05"]
    result = run("bench", *arguments, "--report", report, "--json", path)
    assert result.exit_code == 0, result.output
    found = json.loads(path.read_text())
    assert [each["dtype"] for each in found] == ["float32", "bfloat16"]
    text = report.read_text()
    assert "`retouch bench --model ddpm-256 --edit 0.05 --dtype float32 --dtype bfloat16" in text
    assert cells(text)[0][-4:] == ["-", "-", "-", "- |"]
    rows = cells(markdown([{**each, "tiny": False} for each in found], "retouch bench"))
    assert [row[1] for row in rows] == ["float32", "bfloat16"]
    assert rows[0][-4:] == ["0.0378", "37.5", "13.5", "2.8x |"]
    assert {len(row) for row in rows} == {17}


def cells(report):
    """The rows of a report's table."""
    return [line.split(" | ") for line in report.splitlines() if line.startswith("| ddpm-256")]


def test_bench_measures_bfloat16_and_a_mask(tmp_path):
    mask, path = tmp_path / "mask.png", tmp_path / "out.json"
    Image.fromarray(square(0.05, (64, 64)).mask.byte().mul(255).numpy()).save(mask)
    result = run("bench", *TINY, "--dtype", "bfloat16", "--mask", mask, "--json", path)
    assert result.exit_code == 0, result.output
    (found,) = json.loads(path.read_text())
    assert (found["dtype"], found["edit_label"]) == ("bfloat16", "mask.png")


def test_bench_measures_float16_where_the_backend_computes_in_it(monkeypatch):
    seen = []

    def measure(options, tick):
        seen.extend(options.dtypes)
        raise RuntimeError("seen")

    halves = SimpleNamespace(name="halves", device="cpu", dtypes=(torch.float16,))
    monkeypatch.setattr("retouch.kernels.backend", lambda *_: halves)
    monkeypatch.setattr("retouch.bench.measure", measure)
    assert run("bench", *TINY, "--dtype", "float16").exit_code == 1
    assert seen == [torch.float16]


def test_a_backend_that_cannot_be_loaded_is_no_traceback(monkeypatch):
    def fail(*_):
        raise ImportError("the triton backend cannot be loaded")

    monkeypatch.setattr("retouch.kernels.backend", fail)
    for command in (["bench"], ["explain", "dit"]):
        result = run(*command, "--backend", "triton")
        assert (result.exit_code, said(result)) == (1, "retouch: the triton backend cannot be loaded")


def test_bench_measures_sessions(tmp_path):
    path = tmp_path / "out.json"
    result = run(
        *["bench", "--session", "--tiny", "--steps", 2, "--steps", 3, "--edit", 0.05, "--policy", "paper"],
        *["--storage", "bf16", "--memory", "0", "--json", path],
    )
    assert result.exit_code == 0, result.output
    found = json.loads(path.read_text())
    assert [(each["steps"], each["repeat"]) for each in found] == [(2, 1), (3, 1)]
    for each in found:
        assert (each["policy"], each["storage"], each["session_memory_bytes"]) == ("paper", "bf16", 0)
    assert "ddpm-256" in result.stdout
    assert "done" in result.stderr


def test_bench_predicts_for_every_device_and_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("retouch.compile", None)
    path, report = tmp_path / "out.json", tmp_path / "out.md"
    options = ["--predict", "h100", "--predict", "m1pro", "--model", "resnet-generator", "--tiny", "--edit", "0.05"]
    result = run("bench", *options, "--json", path, "--report", report)
    assert result.exit_code == 0, result.output
    found = json.loads(path.read_text())
    assert [(each["device"], each["policy"], each["edit_label"]) for each in found] == [
        ("h100", "paper", "0.05"),
        ("m1pro", "paper", "0.05"),
    ]
    assert all(each["predicted"] and each["update_ms"] > 0 for each in found)
    assert result.stdout.count("PREDICTED, not measured") == 2
    assert "A prediction is no measurement" in result.stdout
    assert f"`retouch bench {' '.join(options[:6])} --edit 0.05 --tiny --report {report}`" in report.read_text()


def test_explain_prints_a_table():
    result = run("explain", "resnet-generator", "--tiny", "--edit", 0.05)
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) > 5


def test_demo_writes_its_pictures(tmp_path):
    pytest.importorskip("skimage")
    result = run("demo", "--tiny", "--output", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    names = {path.name for path in (tmp_path / "demo").iterdir()}
    assert names == {"photo.png", "large.png", "emoji.png", "edited.png", "sheet.png"}
    assert {"record", "stroke", "patch", "erasure", "undo"} <= set(result.stdout.split())
    assert "retouch bench --quality" in result.stdout
    assert "Computed with cpu kernels on cpu" in result.stdout


def test_a_failure_exits_with_one(monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("the kernels are on strike")

    monkeypatch.setattr("retouch.compile", fail)
    result = run("bench", *TINY)
    assert result.exit_code == 1
    assert "on strike" in result.stderr


def test_uneven_dense_times_are_noticed():
    calm = {"model": "a", "dense_kind": "eager", "spread": {"eager": {"min": 10, "max": 12}}}
    busy = {"model": "b", "dense_kind": "eager", "spread": {"eager": {"min": 10, "max": 20}}}
    assert restless([calm, busy, busy]) == ["b"]


def test_edit_fraction_is_that_of_its_mask():
    assert Edit("half", torch.tensor([[True, False]])).fraction == 0.5


def test_where_graphs_are_replayed_sessions_are_measured_too(monkeypatch, tmp_path):
    backend, file, size = Graphs(), tmp_path / "found.json", (16, 16)
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))
    inputs = models.Inputs((torch.zeros(1, 3, *size),), {})
    network = models.Network("small", "", size, size, lambda tiny: module, lambda *_: inputs)
    monkeypatch.setattr(models, "get", lambda name: network)
    monkeypatch.setitem(kernels.registry._made, ("triton", CPU), backend)
    arguments = ["--no-compile", "--repeat", "1", "--edit", "0.05", "--policy", "exact", "--backend", "triton"]
    shown = run("bench", "--model", "srvgg", *arguments, "--json", str(file))
    assert shown.exit_code == 0, said(shown)
    (result,) = json.loads(file.read_text())
    assert result["update_replayed_ms"] > 0
    assert result["speedup_replayed"] == pytest.approx(result["dense_ms"] / result["update_replayed_ms"])
    assert result["outside_unchanged"]
    assert (len(backend.captured), backend.replayed) == (1, 2 * UPDATES_PER_ROUND - 1)
    assert "graph" in shown.output
