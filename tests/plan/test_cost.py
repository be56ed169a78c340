"""The work that operations declare, and the seconds that it is taken to cost."""

from collections import Counter
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import torch

from retouch import models
from retouch.bench.edits import square
from retouch.bench.forecast import program_of
from retouch.incremental import planned
from retouch.ir.geometry import AxisMap, Geometry
from retouch.ir.work import Work
from retouch.kernels import backend
from retouch.ops.specs import SPECS
from retouch.passes import in_tiles
from retouch.plan import activity, meter
from retouch.plan.cost import KERNELS, Rate, Rates, amounts
from retouch.plan.explain import explain
from retouch.plan.policy import Policy
from retouch.plan.region import Region
from retouch.runtime.emitter import build, dirty_values
from retouch.runtime.shared import Shared
from support import costs

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

NETWORKS = ("ddpm-256", "sd15-unet", "gaugan", "sd-vae-decoder", "resnet-generator", "dit", "srvgg")
FULL = Rates({f"{name} float32": Rate(1e-6, 1e-12, 1e-11, 1e-11) for name in KERNELS}, launch=1e-5, make=1e-5)


@cache
def program(name, dtype=torch.float32):
    network = models.get(name)
    return program_of(network, network.image_size(True), True, dtype)


def region(name, edit):
    return Region.from_mask(square(edit, models.get(name).image_size(True)).mask)


def update(name, policy, edit):
    found = program(name)
    plan = planned(found if policy.exact else in_tiles(found, torch.float32), policy)
    active = activity.of_update(plan.program, region(name, edit), policy)
    return plan, active, dirty_values(plan.program, set(), active)


# What operations declare


@pytest.mark.parametrize("policy", ["paper", "balanced", "fast", "exact"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_launches_of_an_update_are_the_calls_of_its_schedule(name, policy):
    chosen = Policy.named(policy)
    for edit in (0.02, 0.3):
        plan, active, dirty = update(name, chosen, edit)
        shared = Shared(backend("reference"))
        names = {id(shared.backend.kernel(kernel)): kernel for kernel in SPECS}
        schedule = build(plan, active, shared, activity.statistics_of(plan.program, chosen), dirty)
        called = Counter(names[id(call.function)] for call in schedule.steps if not call.host)
        run = meter.of_update(plan, active, chosen, dirty)
        launches = Counter(work.kernel for work in run.launches)
        restores = [call.args[0] for call in schedule.steps if call.host and "restore" in call.function.__name__]
        called["copy_rows"] += sum(map(len, restores))
        launches.subtract({"copy_many": 1, "dense": launches["dense"]})
        assert +launches == +called


@pytest.mark.parametrize("name", NETWORKS)
def test_the_arithmetic_is_that_of_explain(name):
    paper = Policy.named("paper")
    plan, active, dirty = update(name, paper, 0.02)
    assert meter.of_update(plan, active, paper, dirty).macs == explain(plan.program, plan, active, str).macs_active
    everything = activity.everything(plan.program)
    every = dirty_values(plan.program, set(plan.program.inputs), everything)
    dense = explain(plan.program, plan, everything, str).macs_dense
    assert meter.of_everything(plan, every - plan.chained).macs == dense


def test_a_linear_layer_moves_its_rows_and_weights_once():
    network = replace(
        models.get("resnet-generator"),
        make_module=lambda tiny: torch.nn.Conv2d(8, 16, 1, bias=False),
        make_inputs=lambda tiny, generator: models.Inputs((torch.zeros(1, 8, 10, 10),)),
    )
    plan = planned(program_of(network, (64, 64), True, torch.float32), Policy.named("paper"))
    (work,) = meter.of_everything(plan, set()).launches
    weights = 4 * 8 * 16
    moved = 4 * (100 * 8 + 100 * 16) + weights
    assert work == Work("gemm", torch.float32, moved, rows=100, columns=16, depth=8, weights=weights)


def test_rows_of_tiles_that_are_not_active_are_multiplied_too():
    network = replace(
        models.get("resnet-generator"),
        make_module=lambda tiny: torch.nn.Conv2d(32, 64, 3, padding=1, bias=False),
        make_inputs=lambda tiny, generator: models.Inputs((torch.zeros(1, 32, 10, 10),)),
    )
    policy = Policy("paper", dilate=0)
    plan = planned(in_tiles(program_of(network, (64, 64), True, torch.float32), torch.float32), policy)
    mask = np.zeros((10, 10), np.bool_)
    mask[1:6, 3:9] = mask[8, 8] = True  # six tiles of four rows, three of two, and one row alone
    active = activity.of_update(plan.program, Region.from_mask(mask), policy)
    (work,) = (x for x in meter.of_update(plan, active, policy, set()).launches if x.kernel == "winograd")
    assert (work.rows, work.padding) == (31, 36 + 2 - 31)
    assert work.macs == 31 * 64 * 9 * 32
    assert work.times(3).padding == 21
    rate = Rate(0, mac=1e-12)
    assert rate.seconds(work) == pytest.approx(38 / 31 * rate.seconds(replace(work, padding=0)))


def test_half_precision_moves_fewer_bytes():
    sizes = []
    for dtype in (torch.float32, torch.bfloat16):
        plan = planned(program("ddpm-256", dtype), Policy.named("paper"))
        sizes.append(sum(work.nbytes for work in meter.of_everything(plan, set()).launches))
    assert sizes[1] < 0.7 * sizes[0]


@pytest.mark.parametrize("axis", [
    AxisMap.conv(9, 3, 1, 1, 1, 1), AxisMap.conv(9, 3, 2, 0, 1, 2), AxisMap.nearest(4, 8, None), AxisMap.flip(5),
    AxisMap.conv_transpose(4, 4, 2, 1, 0, 1), AxisMap.pad(5, 2, 2, "reflect"), AxisMap.conv(5, 1, 7, 0, 0, 1),
])  # fmt: skip
def test_what_outputs_read_is_found_without_their_tables(axis):
    geometry = Geometry(axis, axis)
    rng = np.random.default_rng(0)
    for share in (0.0, 0.1, 1.0):
        mask = rng.random((2, axis.outputs, axis.outputs)) < share
        named = geometry.rows(np.flatnonzero(mask).astype(np.int32))
        expected = np.zeros(2 * axis.inputs**2 + 1, np.bool_)
        expected[named] = True  # the last one takes the -1
        assert np.array_equal(geometry.transposed().reach(mask).reshape(-1), expected[:-1])


# What it costs


@pytest.mark.parametrize("kernel", [*SPECS, "dense"])
@pytest.mark.parametrize("part", ["nbytes", "rows", "columns", "depth", "count", "steps"])
def test_more_work_never_costs_less(kernel, part):
    work = Work(kernel, torch.float32, 1000, 64, 32, 16, 2, 3)
    found = [FULL.seconds(replace(work, **{part: size})) for size in (1, 8, 100, 1000, 10000)]
    assert found == sorted(found)
    assert found[0] > 0


def test_few_columns_cost_a_whole_vector():
    narrow, wide = (Work("gemm", torch.float32, 0, 100, columns, 64) for columns in (3, 16))
    assert amounts(narrow)[1] == amounts(wide)[1]


def test_a_type_that_was_not_measured_costs_what_another_one_does():
    work = Work("gemm", torch.float32, 0, 100, 64, 64)
    assert FULL.seconds(replace(work, dtype=torch.bfloat16)) == FULL.seconds(work)


@pytest.mark.parametrize("policy", ["paper", "balanced", "fast", "exact"])
@pytest.mark.parametrize("name", ["resnet-generator", "ddpm-256", "dit"])
def test_larger_edits_cost_more(name, policy):
    chosen = Policy.named(policy)
    plan, _, _ = update(name, chosen, 0.01)
    make = partial(meter.of_update, plan, policy=chosen)
    found = []
    for edit in (0.01, 0.1, 0.5):
        _, active, dirty = update(name, chosen, edit)
        run = make(active=active, dirty=dirty)
        found.append(costs().update(run))
        assert FULL.update(run) > len(run.launches) * FULL.launch
        assert FULL.preparing(run) == pytest.approx(len(run.launches) * FULL.make)
    assert found == sorted(found)
