"""The cost model: its bounds, its calibration, and the work it counts."""

from dataclasses import replace
from functools import cache

import pytest
import torch

import retouch
from retouch import models
from retouch.bench.devices import DEVICES, device
from retouch.bench.edits import square
from retouch.bench.forecast import ForecastOptions, assumptions, forecast, forecast_markdown
from retouch.bench.predict import Model, fitted_efficiency, predict
from retouch.bench.published import SIGE
from retouch.bench.workload import Work, dense_work, lowered, update_work
from retouch.incremental import planned
from retouch.plan import activity
from retouch.plan.explain import explain
from retouch.plan.region import Policy, Region
from retouch.runtime.state.layered import Snapshot
from retouch.runtime.store import Store

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

PAPER = Policy.named("paper")
EVERY_DEVICE = pytest.mark.parametrize("on", DEVICES.values(), ids=DEVICES)


@cache
def program(name, tiny=True, dtype=torch.float32):
    network = models.get(name)
    return lowered(network, network.image_size(tiny), tiny, dtype)


def region(name, edit, tiny=True):
    return Region.from_mask(square(edit, models.get(name).image_size(tiny)).mask)


def product(rows=1000, columns=256, depth=1152, count=1, nbytes=0):
    return Work("gemm", nbytes, rows, columns, depth, count)


# A kernel


@EVERY_DEVICE
def test_more_rows_are_never_faster(on):
    costs = [Model(on).cost(product(rows)).seconds for rows in (1, 31, 32, 33, 100, 500, 5000, 60000)]
    assert costs == sorted(costs)
    assert costs[0] < costs[-1]


@EVERY_DEVICE
@pytest.mark.parametrize("dimension", ["rows", "columns", "depth", "count", "nbytes"])
def test_more_work_is_never_faster(on, dimension):
    costs = [Model(on).cost(product(**{dimension: size})).seconds for size in (1, 8, 100, 127, 128, 1000, 3000, 10000)]
    assert costs == sorted(costs)


@EVERY_DEVICE
@pytest.mark.parametrize("rows", [1, 70, 4000, 65536])
def test_no_kernel_beats_its_roofline(on, rows):
    work = product(rows, nbytes=rows * 4096)
    cost = Model(on, efficiency=1.0).cost(work).seconds
    assert cost > 2 * work.macs / on.rate("float32")
    assert cost > work.nbytes / (on.bandwidth * 1e9)


def test_few_rows_leave_processors_idle():
    model = Model(device("h100"))
    each = [model.cost(product(rows, depth=128)).arithmetic / rows for rows in (32, 100000)]
    assert each[0] > 5 * each[1]


def test_a_deep_sum_is_split_when_there_are_few_tiles():
    model = Model(device("h100"))
    deep, shallow = (model.cost(product(64, 64, depth)).arithmetic for depth in (16 * 1024, 1024))
    assert deep < 16 * shallow


def test_graphs_shorten_launches_only():
    one_by_one = Model(device("rtx3090"))
    replayed = replace(one_by_one, graphs=True)
    before, after = one_by_one.cost(product()), replayed.cost(product())
    assert (before.arithmetic, before.traffic) == (after.arithmetic, after.traffic)
    assert after.launch < before.launch
    assert Model(device("m1pro"), graphs=True).launch == Model(device("m1pro")).launch


def test_shares_say_what_bounds_a_run():
    model = Model(device("rtx3090"))
    for work, bound in (
        (product(100000), "arithmetic"),
        (Work("row_map", 10**10), "bandwidth"),
        (Work("clear", 0), "launches"),
    ):
        shares = predict([work], model).shares
        assert max(shares, key=shares.get) == bound
        assert sum(shares.values()) == pytest.approx(1)
    assert predict([], model).ms == 0


# The work of a network


@pytest.mark.parametrize("name", ["ddpm-256", "sd15-unet", "gaugan", "sd-vae-decoder", "resnet-generator", "dit"])
def test_arithmetic_is_that_of_explain(name):
    plan = planned(program(name), PAPER)
    dense = explain(plan.program, plan, activity.everything(plan.program), "")
    assert sum(work.macs for work in dense_work(plan, PAPER)) == dense.macs_dense
    update = explain(plan.program, plan, activity.shared(plan.program, region(name, 0.02), PAPER), "")
    assert sum(work.macs for work in update_work(plan, PAPER, region(name, 0.02)).work) == update.macs_active


def test_a_linear_layer_moves_its_rows_and_weights_once():
    module = torch.nn.Conv2d(8, 16, 1, bias=False)
    network = replace(
        models.get("resnet-generator"),
        make_module=lambda tiny: module.to("meta"),
        make_inputs=lambda tiny, generator: models.Inputs((torch.zeros(1, 8, 10, 10),)),
    )
    plan = planned(lowered(network, (64, 64), True, torch.float32), PAPER)
    (work,) = dense_work(plan, PAPER)
    assert work == Work("gemm", 4 * (100 * 8 + 100 * 16 + 8 * 16), rows=100, columns=16, depth=8)


def test_half_precision_moves_fewer_bytes():
    whole, half = (
        predict(dense_work(planned(program("ddpm-256", dtype=dtype), PAPER), PAPER), Model(device("h100")))
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert half.macs == whole.macs
    assert half.nbytes < 0.7 * whole.nbytes


def test_launches_are_the_calls_of_the_schedule():
    network = models.get("resnet-generator")
    net = retouch.compile(network.build(True), network.inputs(True).args, policy="fast")
    fast = Policy.named("fast")
    schedule = net._schedule(region("resnet-generator", 0.02), frozenset())
    found = update_work(planned(program("resnet-generator"), fast), fast, region("resnet-generator", 0.02)).work
    assert len(found) == len(schedule.calls) + 1
    assert found[0].kernel == "copy_many"
    assert found[0].nbytes > 0


def test_an_update_reads_what_its_snapshot_copies_in():
    network, fast = models.get("sd15-unet"), Policy.named("fast")
    inputs = network.inputs(True)
    net = retouch.compile(network.build(True), inputs.args, dict(inputs.kwargs), policy=fast)
    _, recording = net.record(*inputs.args, **inputs.kwargs)
    restored = Snapshot.of(recording, Store()).recording()
    edit = region("sd15-unet", 0.02)
    net.update(restored, edit, *inputs.args, **inputs.kwargs)
    found = update_work(planned(program("sd15-unet"), fast), fast, edit).read
    assert found == restored.bytes_read > 0
    assert update_work(planned(program("sd15-unet"), fast), fast, region("sd15-unet", 1.0)).read == 0
    assert Model(device("h100")).transfer(found) == pytest.approx(Model(device("a100")).transfer(found) / 2)
    assert Model(device("m1pro")).transfer(found) == 0


def test_an_edit_of_everything_is_a_dense_run():
    plan = planned(program("ddpm-256"), PAPER)
    assert update_work(plan, PAPER, region("ddpm-256", 1.0)).work == dense_work(plan, PAPER)


# Predictions


@EVERY_DEVICE
@pytest.mark.parametrize("policy", ["paper", "balanced", "fast", "exact"])
def test_larger_edits_compute_more_and_none_beats_its_roofline(on, policy):
    chosen = Policy.named(policy)
    plan = planned(program("resnet-generator"), chosen)
    model = Model(on)
    updates = [
        predict(update_work(plan, chosen, region("resnet-generator", edit)).work, model) for edit in (0.002, 0.02, 0.2)
    ]
    assert [each.macs for each in updates] == sorted(each.macs for each in updates)
    for each in updates:
        assert each.ms > 2e3 * each.macs / on.rate("float32")
        assert each.ms > 1e3 * each.nbytes / (on.bandwidth * 1e9)
        assert each.ms > 1e3 * each.launches * model.launch


@pytest.mark.parametrize("on", ["rtx3090", "m1pro"])
def test_the_dense_time_is_the_published_one_that_it_is_fitted_to(on):
    options = ForecastOptions(["ddpm-256"], [on, "a100"])
    found, other = (each for each in forecast(options) if each["edit_label"] == "0.012")
    assert found["macs_dense"] == pytest.approx(SIGE["ddpm-256"].gmacs * 1e9, rel=0.01)
    assert found["dense_ms"] == pytest.approx(SIGE["ddpm-256"].dense_ms[on], rel=0.1)
    assert found["sige"]["update_ms"] == {"rtx3090": 12.6, "m1pro": 39.5}[on]
    assert 1 < found["speedup"] < found["macs_dense"] / found["macs_active"]
    assert other["sige"]["dense_ms"] is None
    assert (found["update_graph_ms"] is None) == (on == "m1pro")


def test_no_efficiency_is_above_one():
    assert fitted_efficiency([product()], device("rtx3090"), ms=1e-9) == 1.0


def test_published_updates_are_found_by_their_share():
    published = SIGE["ddpm-256"]
    assert published.update(0.0121).gmacs == 33.4
    assert published.update(0.02) is None
    assert all(name in models.names() for name in SIGE)
    assert all(each in DEVICES for figures in SIGE.values() for each in figures.dense_ms)


def test_an_unknown_device_names_those_that_exist():
    with pytest.raises(ValueError, match="unknown device 'abacus'; choose from: rtx3090, a100, h100, m1pro"):
        ForecastOptions(["ddpm-256"], ["abacus"])


def test_a_type_without_a_peak_names_those_that_have_one():
    with pytest.raises(ValueError, match=r"no published peak for tf32; choose from: float32$"):
        ForecastOptions(["ddpm-256"], ["rtx3090", "m1pro"], dtype="tf32")


def test_faster_types_are_faster_and_the_report_says_what_is_assumed():
    options = ForecastOptions(["resnet-generator"], ["h100", "m1pro"], tiny=True)
    results = list(forecast(options))
    faster = list(forecast(replace(options, devices=["h100"], dtype="float16")))
    assert faster[0]["dense_ms"] < results[0]["dense_ms"]
    text = forecast_markdown(results, "retouch bench --predict h100")
    assert "PREDICTED, not measured: NVIDIA H100 SXM, float32" in text
    assert "retouch bench --predict h100" in text
    assert all(each in text for each in assumptions(results))
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
