"""The suite of networks: edits, rounds, errors, JSON, and the report beside what was published."""

import json

import pytest
import torch
from PIL import Image
from torch import nn

from kernels.interpreter import CPU, Graphs
from retouch import kernels, models
from retouch.bench.edits import Edit, edits_of, read_mask, square
from retouch.bench.harness import Progress
from retouch.bench.networks import Networks, compare
from retouch.bench.trial import UPDATES_PER_ROUND
from retouch.editing.images import ImageError
from retouch.errors import OptionError, RetouchError

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

KEYS = {
    "model", "tiny", "edit", "edit_label", "policy", "dilate", "text", "dtype", "device", "backend", "dense_ms",
    "dense_kind", "dense_eager_ms", "dense_channels_last_ms", "dense_compiled_ms", "record_ms", "record_over_dense",
    "update_ms", "predicted_ms",
    "update_cached_ms", "update_replayed_ms", "first_record_ms", "first_update_ms", "undo_ms", "speedup",
    "speedup_replayed", "spread", "macs_dense", "macs_active", "fallbacks", "kept_bytes", "packed_bytes", "compile_s",
    "max_abs_err", "rel_err", "rel_err_image", "rel_change", "outside_unchanged", "peak_rss_bytes", "machine",
}  # fmt: skip


@pytest.fixture(scope="module")
def results():
    suite = Networks(["resnet-generator"], (0.012, 1.0), (), ("fast", "paper"), no_compile=True, repeat=2, tiny=True)
    suite.check()
    said = []
    found = list(suite.results(Progress(lambda *x: said.append(x))))
    assert [done for _, done in said] == sorted(done for _, done in said)
    assert {"resnet-generator: building", "resnet-generator, fast: compiling"} <= {text for text, _ in said}
    return found


def test_every_policy_and_edit_gives_a_result_with_all_keys(results):
    assert [(each["policy"], each["edit_label"]) for each in results] == [
        ("fast", "0.012"), ("fast", "1"), ("paper", "0.012"), ("paper", "1"),
    ]  # fmt: skip
    for each in results:
        assert set(each) == KEYS
    assert json.loads(json.dumps(results, allow_nan=False)) == results


def test_results_fit_together(results):
    for each in results:
        assert each["dense_ms"] == min(each["dense_eager_ms"], each["dense_channels_last_ms"])
        assert each["dense_ms"] == each[f"dense_{each['dense_kind']}_ms"]
        assert each["dense_compiled_ms"] is None
        assert each["speedup"] == pytest.approx(each["dense_ms"] / each["update_ms"])
        assert each["record_over_dense"] == pytest.approx(each["record_ms"] / each["dense_ms"])
        assert each["outside_unchanged"]
        assert 0 < each["macs_active"] <= each["macs_dense"]
        assert each["peak_rss_bytes"] > each["kept_bytes"] > 0
        assert each["spread"]["record"]["samples"] == 2
        assert each["spread"]["update"]["samples"] == each["spread"]["undo"]["samples"] == 2 * UPDATES_PER_ROUND


def test_an_update_of_everything_is_the_dense_result(results):
    assert results[1]["rel_err"] < 1e-5
    assert results[1]["macs_active"] == results[1]["macs_dense"]


def test_a_report_has_a_row_for_every_result(results, tmp_path):
    Networks().write_report(tmp_path / "r.md", results, "retouch bench networks")
    rows = [line for line in (tmp_path / "r.md").read_text().splitlines() if line.startswith("| resnet-generator")]
    assert len(rows) == len(results) == 4


def test_texts_are_measured_beside_each_other_and_the_same_dense_runs():
    suite = Networks(
        ["flux-block"], (), (), ["fast"], text=["recorded", "recomputed"], no_compile=True, repeat=1, tiny=True
    )
    suite.check()
    recorded, recomputed = suite.results()
    assert [each["text"] for each in (recorded, recomputed)] == ["recorded", "recomputed"]
    assert recorded["macs_active"] < recomputed["macs_active"]
    assert {each["dense_channels_last_ms"] for each in (recorded, recomputed)} == {None}  # there is no convolution
    assert set(recorded) == KEYS
    assert "fast, text recorded" in suite.markdown_table([recorded])


def test_uneven_dense_times_are_noticed():
    calm = {"model": "a", "dense_kind": "eager", "spread": {"eager": {"min": 10, "max": 12}}}
    busy = {"model": "b", "dense_kind": "eager", "spread": {"eager": {"min": 10, "max": 20}}}
    first, *_ = Networks().notes([calm, busy, busy])
    assert first.startswith("Dense times of b vary")
    assert not any("Dense times" in text for text in Networks().notes([calm]))


def test_where_graphs_are_replayed_sessions_are_measured_too(monkeypatch):
    backend, size = Graphs(), (16, 16)
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))
    inputs = models.Inputs((torch.zeros(1, 3, *size),), {})
    network = models.Network("small", "", size, size, lambda tiny: module, lambda *_: inputs)
    monkeypatch.setattr(models, "get", lambda name: network)
    monkeypatch.setitem(kernels.registry._made, ("triton", CPU), backend)
    suite = Networks(["srvgg"], [0.05], policy=["exact"], backend="triton", no_compile=True, repeat=1)
    (result,) = suite.results()
    assert result["update_replayed_ms"] > 0
    assert result["speedup_replayed"] == pytest.approx(result["dense_ms"] / result["update_replayed_ms"])
    assert result["outside_unchanged"]
    assert (len(backend.captured), backend.replayed) == (1, 4 * UPDATES_PER_ROUND - 1)
    assert "graphs" in suite.tables([result])[0].columns[3].header


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": ["nope"]}, "unknown model 'nope'; choose from: ddpm-256, sd15-unet"),
        ({"policy": ["nope"]}, "unknown policy 'nope'; presets are paper, balanced"),
        ({"dtype": ["float16"]}, "--dtype float16: the cpu backend computes in float32 or bfloat16 on cpu"),
        ({"device": "abacus"}, "cannot compute on the device 'abacus'"),
        ({"text": ["recorded", "nope"]}, "text is 'recomputed' or 'recorded', or a number above 1, not 'nope'"),
        ({"text": ["recorded"], "policy": ["exact"]}, "an exact policy needs recomputed texts"),
        ({"edit": [0.0]}, "above 0 and at most 1"),
        ({"backend": "triton"}, "the triton backend runs on cuda"),
    ],
)
def test_what_cannot_be_measured_is_named(changed, message, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr("retouch.kernels.registry._made", {})
    with pytest.raises(RetouchError, match=message):
        Networks(**{"model": ["resnet-generator"], **changed}).check()


def test_types_that_only_one_backend_has_are_measured_there(monkeypatch):
    class Halves:
        name, device, dtypes = "halves", CPU, (torch.float16,)

    monkeypatch.setattr(kernels, "backend", lambda *_: Halves())
    assert Networks().checked_type("float16") == torch.float16


# Edits


def test_without_edits_one_square_is_made(tmp_path):
    Image.new("L", (8, 8), 255).save(tmp_path / "mask.png")
    assert [edit.label for edit in edits_of((), (), (8, 8))] == ["0.012"]
    assert [edit.label for edit in edits_of((), [tmp_path / "mask.png"], (8, 8))] == ["mask.png"]
    assert [edit.label for edit in edits_of([0.5], [tmp_path / "mask.png"], (8, 8))] == ["0.5", "mask.png"]


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, float("nan")])
def test_shares_are_above_nothing_and_at_most_everything(share):
    with pytest.raises(OptionError, match="above 0 and at most 1, such as"):
        edits_of([share], (), (8, 8))


def test_masks_that_cannot_be_read_are_refused(tmp_path):
    Image.new("L", (64, 64), 0).save(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("no image")
    for name, message in (("empty.png", "empty"), ("text.png", "cannot read the mask"), ("gone.png", "cannot read")):
        with pytest.raises(ImageError, match=message):
            read_mask(tmp_path / name, (64, 64))


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


def test_edit_fraction_is_that_of_its_mask():
    assert Edit("half", torch.tensor([[True, False]])).fraction == 0.5


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
