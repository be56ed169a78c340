"""`retouch bench`, `explain` and `demo`: options, bad input, files, interruption, and what is written."""

import json
import re

import pytest
import torch
from PIL import Image

from commands import run, said
from retouch.bench.edits import square
from retouch.bench.networks import Networks
from retouch.models.pipelines import PIPELINES

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

TINY = ["bench", "networks", "--model", "resnet-generator", "--tiny", "--no-compile", "--repeat", "1"]


def test_bench_alone_shows_its_sub_commands():
    shown = run("bench")
    for name in ("networks", "sessions", "quality", "halo", "predict", "tiles"):
        assert name in shown.output


def test_lists_show_every_network_and_pipeline():
    shown = run("bench", "networks", "--list")
    assert shown.exit_code == 0
    for name in ("ddpm-256", "sd15-unet", "taesd", "sd3"):
        assert name in shown.stdout
    shown = run("bench", "sessions", "--list")
    assert shown.exit_code == 0
    for name, summary in PIPELINES.items():
        assert name in shown.stdout
        assert summary.split(",")[0] in shown.stdout


MEANINGLESS = {
    "networks": ["--session", "--predict", "--quality", "--steps", "--storage", "--memory", "--method", "--images",
                 "--count", "--side", "--plot"],
    "sessions": ["--device", "--dilate", "--no-compile", "--method", "--images", "--count", "--side"],
    "quality": ["--policy", "--edit", "--mask", "--dtype", "--device", "--dilate", "--repeat", "--steps", "--storage",
                "--memory", "--tiny", "--no-compile"],
    "halo": ["--edit", "--mask", "--dtype", "--device", "--steps", "--storage", "--memory", "--tiny", "--count"],
    "predict": ["--session", "--repeat", "--no-compile", "--backend", "--threads", "--steps", "--storage", "--memory"],
    "tiles": ["--model", "--policy", "--edit", "--dtype", "--backend", "--repeat", "--report", "--threads"],
}  # fmt: skip
"""Options that have a meaning for another sub-command, or had one before there were any."""


@pytest.mark.parametrize(("name", "option"), [(name, each) for name, found in MEANINGLESS.items() for each in found])
def test_options_without_a_meaning_are_refused(name, option):
    result = run("bench", name, option, "1")
    assert result.exit_code == 2
    assert f"No such option: {option}" in said(result)
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["networks", "--model", "nope"], "choose from: ddpm-256, sd15-unet"),
        (["networks", "--policy", "nope"], "balanced"),
        (["networks", "--edit", "0"], "above 0 and at most 1"),
        (["networks", "--edit", "nan"], "above 0 and at most 1"),
        (["networks", "--edit", "much"], "unable to parse string as a number"),
        (["networks", "--mask", "missing.png"], "cannot read the mask"),
        (["networks", "--json", "missing/out.json"], "cannot write"),
        (["networks", "--report", "missing/out.md"], "cannot write"),
        (["networks", "--report", "out.txt"], "name it .md"),
        (["networks", "--dtype", "tf32"], "'tf32' is not one of 'float32'"),
        (["networks", "--peer", "abacus"], "'abacus' is not one of 'openvino', 'onnxruntime'"),
        (["networks", "--dtype", "float16"], "--dtype float16: the cpu backend computes in float32 or bfloat16 on cpu"),
        (["networks", "--backend", "nope"], "reference"),
        (["networks", "--repeat", "0"], "--repeat"),
        (["networks", "--device", "abacus"], "cannot compute on the device 'abacus'"),
        (["sessions", "--model", "nope"], "choose from: ddpm-256, sd15"),
        (["sessions", "--policy", "nope"], "'nope' is not one of 'paper'"),
        (["sessions", "--steps", "0"], "--steps"),
        (["sessions", "--memory", "4"], "is no size"),
        (["sessions", "--storage", "int4"], "fp32"),
        (["sessions", "--mask", "missing.png"], "cannot read the mask"),
        (["sessions", "--json", "missing/out.json"], "cannot write"),
        (["quality", "--method", "other"], "unknown method 'other'; choose from: paper"),
        (["quality", "--images", "."], "fewer than two PNG"),
        (["quality", "--count", "0"], "--count"),
        (["halo", "--model", "ddpm-256"], "no trained weights of 'ddpm-256'; choose from: builtin/realesrgan-x4"),
        (["halo", "--side", "16"], "greater than or equal to 32"),
        (["halo", "--policy", "exact"], "'exact' is not one of 'paper', 'balanced', 'fast'"),
        (["halo", "--policy", "nope"], "'nope' is not one of 'paper'"),
        (["halo", "--dilate", "-1"], "--dilate"),
        (["halo", "--json", "none/x.json"], "cannot write none/x.json"),
        (["halo", "--plot", "none/x.png"], "cannot write none/x.png"),
        (["halo", "--plot", "x.txt"], "no plot format"),
        (["predict", "--device", "abacus"], "choose from: rtx3090, a100, h100, m1pro"),
        (["predict", "--model", "nope"], "choose from: ddpm-256, sd15-unet"),
        (["predict", "--edit", "0"], "above 0 and at most 1"),
        (["predict", "--mask", "missing.png"], "cannot read the mask"),
        (["predict", "--device", "m1pro", "--dtype", "tf32"], "no published peak for tf32"),
        (["predict", "--dtype", "int8"], "tf32"),
        (["predict", "--report", "missing/out.md"], "cannot write"),
    ],
)
def test_bad_input_is_named_on_stderr_before_anything_runs(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("bench", *arguments)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert result.stdout == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", "nope"], "choose from: ddpm-256, sd15-unet"),
        (["explain", "dit", "--edit", "1.5"], "above 0 and at most 1"),
        (["explain", "dit", "--dtype", "float16", "--backend", "reference"], "the reference backend computes in"),
        (["demo", "--policy", "nope"], "balanced"),
        (["demo", "--device", "abacus"], "cannot compute on the device 'abacus'"),
    ],
)
def test_bad_input_of_explain_and_demo(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in said(result)
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
    result = run("bench", "networks", "--mask", path)
    assert result.exit_code == 2
    assert "20x30" in result.stderr
    assert "256x256" in result.stderr


def test_networks_writes_results_and_a_report_that_names_its_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(square(0.05, (64, 64)).mask.byte().mul(255).numpy()).save("mask.png")
    options = ["--dtype", "float32", "--dtype", "bfloat16", "--report", "r.md", "--json", "out.json"]
    result = run(*TINY, "--mask", "mask.png", *options, "--threads", torch.get_num_threads())
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out.json").read_text())
    assert [(each["dtype"], each["edit_label"]) for each in found] == [
        ("float32", "mask.png"),
        ("bfloat16", "mask.png"),
    ]
    text = (tmp_path / "r.md").read_text()
    assert (
        "`retouch bench networks --model resnet-generator --tiny --no-compile --repeat 1 --mask mask.png "
        "--dtype float32 --dtype bfloat16 --report r.md" in text
    )
    assert text.count("| resnet-generator |") == 2
    assert "resnet-generator" in result.stdout
    assert "done" in result.stderr
    assert "page faults" in result.stderr


def interrupted(self, progress):
    yield {"model": "x"}
    raise KeyboardInterrupt


def test_results_so_far_are_kept_when_interrupted(tmp_path, monkeypatch):
    path = tmp_path / "out.json"
    monkeypatch.setattr(Networks, "results", interrupted)
    result = run(*TINY, "--json", path)
    assert result.exit_code == 130
    assert said(result).endswith("files of results what was measured")
    assert json.loads(path.read_text()) == [{"model": "x"}]
    assert run(*TINY).exit_code == 130


def test_results_so_far_are_kept_when_something_fails(tmp_path, monkeypatch):
    def failing(self, progress):
        yield {"model": "x"}
        raise RuntimeError("the kernels are on strike")

    path = tmp_path / "out.json"
    monkeypatch.setattr(Networks, "results", failing)
    assert run(*TINY, "--json", path).exit_code == 1
    assert json.loads(path.read_text()) == [{"model": "x"}]


@pytest.mark.parametrize("kind", [ValueError, RuntimeError, TypeError])
def test_what_is_not_the_callers_is_our_defect(kind, monkeypatch):
    def fail(*arguments, **options):
        raise kind("the kernels are on strike")

    monkeypatch.setattr("retouch.compile", fail)
    result = run(*TINY)
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert f"{kind.__name__}: the kernels are on strike" in result.stderr
    assert "retouch: this is a defect of Retouch" in result.stderr
    assert "please report it" in result.stderr


def test_a_backend_that_cannot_be_loaded_is_no_traceback(monkeypatch):
    def fail(*_):
        raise ImportError("the triton backend cannot be loaded")

    monkeypatch.setattr("retouch.kernels.backend", fail)
    for command in (["bench", "networks"], ["explain", "dit"]):
        result = run(*command, "--backend", "triton")
        assert (result.exit_code, said(result)) == (2, "retouch: the triton backend cannot be loaded")


def test_sessions_are_measured_and_reported(tmp_path):
    path, report = tmp_path / "out.json", tmp_path / "out.md"
    result = run(
        *["bench", "sessions", "--tiny", "--steps", 2, "--edit", 0.05, "--policy", "paper", "--storage", "bf16"],
        *["--memory", "0", "--json", path, "--report", report],
    )
    assert result.exit_code == 0, result.output
    (found,) = json.loads(path.read_text())
    assert (found["steps"], found["repeat"], found["policy"], found["storage"]) == (2, 1, "paper", "bf16")
    assert found["session_memory_bytes"] == 0
    assert "ddpm-256" in result.stdout
    assert "| ddpm-256 | 2, 0.05 |" in report.read_text()


def test_predictions_are_made_for_every_device_and_nothing_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("retouch.compile", None)
    monkeypatch.chdir(tmp_path)
    options = ["--model", "resnet-generator", "--device", "h100", "--device", "m1pro", "--edit", "0.05", "--tiny"]
    result = run("bench", "predict", *options, "--json", "out.json", "--report", "out.md")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out.json").read_text())
    assert [(each["device"], each["policy"], each["edit_label"]) for each in found] == [
        ("h100", "paper", "0.05"),
        ("m1pro", "paper", "0.05"),
    ]
    assert all(each["predicted"] and each["update_ms"] > 0 for each in found)
    assert result.stdout.count("PREDICTED, not measured") == 2
    assert "A prediction is no measurement" in result.stderr
    assert f"`retouch bench predict {' '.join(options)} --json out.json" in (tmp_path / "out.md").read_text()


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
    assert all(len(re.findall(r"\d%", line)) == 2 for line in result.stdout.splitlines() if " stroke " in line)
    assert "retouch bench quality" in result.stdout
    assert "Computed with cpu kernels on cpu" in result.stdout
