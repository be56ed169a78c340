"""The cost model of accelerators: its bounds, and what it is fitted to."""

from dataclasses import replace

import pytest
import torch

from retouch.ir.work import Work
from retouch.plan.meter import Run
from retouch.plan.peaks import DEVICES, Peaks, device, fitted_efficiency

EVERY_DEVICE = pytest.mark.parametrize("on", DEVICES.values(), ids=DEVICES)


def product(rows=1000, columns=256, depth=1152, count=1, nbytes=0):
    return Work("gemm", torch.float32, nbytes, rows, columns, depth, count)


@EVERY_DEVICE
def test_more_rows_are_never_faster(on):
    costs = [Peaks(on).cost(product(rows)).seconds for rows in (1, 31, 32, 33, 100, 500, 5000, 60000)]
    assert costs == sorted(costs)
    assert costs[0] < costs[-1]


@EVERY_DEVICE
@pytest.mark.parametrize("dimension", ["rows", "columns", "depth", "count", "nbytes"])
def test_more_work_is_never_faster(on, dimension):
    costs = [Peaks(on).cost(product(**{dimension: size})).seconds for size in (1, 8, 100, 127, 128, 1000, 3000, 10000)]
    assert costs == sorted(costs)


@EVERY_DEVICE
@pytest.mark.parametrize("rows", [1, 70, 4000, 65536])
def test_no_kernel_beats_its_roofline(on, rows):
    work = product(rows, nbytes=rows * 4096)
    cost = Peaks(on, efficiency=1.0).cost(work).seconds
    assert cost > 2 * work.macs / on.rate("float32")
    assert cost > work.nbytes / (on.bandwidth * 1e9)


def test_few_rows_leave_processors_idle():
    model = Peaks(device("h100"))
    each = [model.cost(product(rows, depth=128)).arithmetic / rows for rows in (32, 100000)]
    assert each[0] > 5 * each[1]


def test_a_deep_sum_is_split_when_there_are_few_tiles():
    model = Peaks(device("h100"))
    deep, shallow = (model.cost(product(64, 64, depth)).arithmetic for depth in (16 * 1024, 1024))
    assert deep < 16 * shallow


def test_graphs_shorten_launches_only():
    one_by_one = Peaks(device("rtx3090"))
    replayed = replace(one_by_one, graphs=True)
    before, after = one_by_one.cost(product()), replayed.cost(product())
    assert (before.arithmetic, before.traffic) == (after.arithmetic, after.traffic)
    assert after.launch < before.launch
    assert Peaks(device("m1pro"), graphs=True).launch == Peaks(device("m1pro")).launch


def test_shares_say_what_bounds_a_run():
    model = Peaks(device("rtx3090"))
    for work, bound in (
        (product(100000), "arithmetic"),
        (Work("row_map", torch.float32, 10**10), "bandwidth"),
        (Work("clear", torch.float32, 0), "launches"),
    ):
        shares = model.bounds(Run((work,)))
        assert max(shares, key=shares.get) == bound
        assert sum(shares.values()) == pytest.approx(1)
    assert not any(model.bounds(Run(())).values())


def test_no_efficiency_is_above_one():
    assert fitted_efficiency(Run((product(),)), device("rtx3090"), ms=1e-9) == 1.0
