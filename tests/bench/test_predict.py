"""Predictions of networks on accelerators, beside what SIGE's authors measured."""

from dataclasses import replace
from functools import cache

import pytest
import torch

import retouch
from retouch import models
from retouch.bench.edits import square
from retouch.bench.forecast import Forecast, assumptions, planner, program_of
from retouch.bench.published import SIGE
from retouch.plan import activity
from retouch.plan.peaks import DEVICES, Peaks, device
from retouch.plan.policy import Policy
from retouch.plan.region import Region
from retouch.runtime.state.layered import Snapshot
from retouch.runtime.store import Store

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

PAPER = Policy.named("paper")
EVERY_DEVICE = pytest.mark.parametrize("on", DEVICES.values(), ids=DEVICES)


@cache
def program(name, tiny=True):
    network = models.get(name)
    return program_of(network, network.image_size(tiny), tiny, torch.float32)


def region(name, edit, tiny=True):
    return Region.from_mask(square(edit, models.get(name).image_size(tiny)).mask)


def update(name, policy, edit):
    """The work of an update that is not chosen by its cost."""
    return planner(program(name), policy).update(activity.of_update(program(name), region(name, edit), policy))


# The work of a network


def test_an_update_reads_what_its_snapshot_copies_in():
    """With keys and values in the type that GPUs keep them in."""
    network, fast = models.get("sd15-unet"), replace(Policy.named("fast"), keys_values="recorded")
    inputs = network.inputs(True)
    net = retouch.compile(network.build(True), inputs.args, dict(inputs.kwargs), policy=fast)
    _, recording = net.record(*inputs.args, **inputs.kwargs)
    restored = Snapshot.of(recording, Store()).recording()
    net.update(restored, region("sd15-unet", 0.02), *inputs.args, **inputs.kwargs)
    found = update("sd15-unet", fast, 0.02).recorded_bytes
    assert found == restored.bytes_read > 0
    assert planner(program("sd15-unet"), fast).everything.recorded_bytes == 0
    assert Peaks(device("h100")).transfer(found) == pytest.approx(Peaks(device("a100")).transfer(found) / 2)
    assert Peaks(device("m1pro")).transfer(found) == 0


@EVERY_DEVICE
@pytest.mark.parametrize("edit", [0.02, 0.5, 1.0])
def test_an_update_is_never_predicted_slower_than_a_dense_run(on, edit):
    options = Forecast(["ddpm-256"], [on.name], [edit], tiny=True)
    (found,) = options.results()
    assert found["speedup"] >= 1


# Predictions


@EVERY_DEVICE
@pytest.mark.parametrize("policy", ["paper", "balanced", "fast", "exact"])
def test_larger_edits_compute_more_and_none_beats_its_roofline(on, policy):
    chosen = Policy.named(policy)
    model = Peaks(on)
    updates = [update("resnet-generator", chosen, edit) for edit in (0.002, 0.02, 0.2)]
    assert [each.macs for each in updates] == sorted(each.macs for each in updates)
    for each in updates:
        seconds = model.update(each)
        assert seconds > 2 * each.macs / on.rate("float32")
        assert seconds > sum(work.nbytes for work in each.launches) / (on.bandwidth * 1e9)
        assert seconds > len(each.launches) * model.launch


@pytest.mark.parametrize("on", ["rtx3090", "m1pro"])
def test_the_dense_time_is_the_published_one_that_it_is_fitted_to(on):
    options = Forecast(["ddpm-256"], [on, "a100"])
    found, other = (each for each in options.results() if each["edit_label"] == "0.012")
    assert found["macs_dense"] == pytest.approx(SIGE["ddpm-256"].gmacs * 1e9, rel=0.01)
    assert found["dense_ms"] == pytest.approx(SIGE["ddpm-256"].dense_ms[on], rel=0.1)
    assert found["sige"]["update_ms"] == {"rtx3090": 12.6, "m1pro": 39.5}[on]
    assert 1 < found["speedup"] < found["macs_dense"] / found["macs_active"]
    assert other["sige"]["dense_ms"] is None
    assert (found["update_graph_ms"] is None) == (on == "m1pro")


def test_published_updates_are_found_by_their_share():
    published = SIGE["ddpm-256"]
    assert published.update(0.0121).gmacs == 33.4
    assert published.update(0.02) is None
    assert all(name in models.names() for name in SIGE)
    assert all(each in DEVICES for figures in SIGE.values() for each in figures.dense_ms)


def test_an_unknown_device_names_those_that_exist():
    with pytest.raises(ValueError, match="unknown device 'abacus'; choose from: rtx3090, a100, h100, m1pro"):
        Forecast(["ddpm-256"], ["abacus"]).check()


def test_a_type_without_a_peak_names_those_that_have_one():
    with pytest.raises(ValueError, match=r"no published peak for tf32; choose from: float32$"):
        Forecast(["ddpm-256"], ["rtx3090", "m1pro"], dtype="tf32").check()


def test_faster_types_are_faster_and_the_report_says_what_is_assumed(tmp_path):
    options = Forecast(["resnet-generator"], ["h100", "m1pro"], tiny=True)
    results = list(options.results())
    faster = list(replace(options, device=["h100"], dtype="float16").results())
    assert faster[0]["dense_ms"] < results[0]["dense_ms"]
    options.write_report(tmp_path / "r.md", results, "retouch bench --predict h100")
    text = (tmp_path / "r.md").read_text()
    assert "PREDICTED, not measured: NVIDIA H100 SXM, float32" in text
    assert "retouch bench --predict h100" in text
    assert all(each in text for each in assumptions(results))
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
