"""What an update computes, and that one function decides it."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import retouch
from retouch import Policy, Region
from retouch.plan.cost import KERNELS, Rate
from retouch.plan.peaks import Peaks, device
from support import costs, fill, noise

SIDE = 32
PLAIN = Policy("plain", dilate=0, dilate_grid=0, stats="recorded")
FOLLOWED = Policy("exact", dilate=0, dilate_grid=0, exact=True)


def network():
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, stride=2), nn.Conv2d(16, 3, 1)]
    return fill(nn.Sequential(*layers))


def compiled(monkeypatch, found, policy=PLAIN):
    monkeypatch.setattr("retouch.incremental.costs_of", lambda backend: found)
    return retouch.compile(network(), noise(1, 3, SIDE, SIDE), policy=policy)


def square(side):
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[:side, :side] = True
    return Region.from_mask(mask)


def test_few_rows_are_computed_alone_and_all_rows_are_a_run_of_everything(monkeypatch):
    net = compiled(monkeypatch, costs())
    assert not net.explain(square(2)).decision.whole
    assert not net.explain(square(28)).decision.whole
    assert net.explain(square(SIDE)).decision.whole


def test_costs_turn_the_decision(monkeypatch):
    """An update saves rows and reads index tables: where copies are dear, everything is cheaper to compute."""
    region = square(24)
    assert not compiled(monkeypatch, costs()).explain(region).decision.whole
    dear = costs(copy_rows=Rate(0.0, 0.0, 1e-3))
    found = compiled(monkeypatch, dear).explain(region).decision
    assert found.whole
    assert found.sparse_ms > found.whole_ms == found.predicted_ms


def test_launches_alone_can_make_everything_the_faster_way(monkeypatch):
    launches = {name: Rate(1.0) for name in KERNELS}
    assert compiled(monkeypatch, costs(launch=1.0, **launches)).explain(square(1)).decision.whole


@pytest.mark.parametrize("side", range(2, SIDE + 1, 6))
def test_it_is_the_way_that_is_predicted_to_be_faster(monkeypatch, side):
    for found in (costs(), costs(entry=1e-7), costs(copy_rows=Rate(1e-6, 0.0, 1e-9)), Peaks(device("h100"))):
        decision = compiled(monkeypatch, found).explain(square(side)).decision
        assert decision.whole == (decision.sparse_ms + decision.preparing_ms >= decision.whole_ms)


@pytest.mark.parametrize(
    "policy", [PLAIN, Policy("exact", dilate=0, dilate_grid=0, exact=True)], ids=["plain", "exact"]
)
@pytest.mark.parametrize("dear", [False, True], ids=["rows", "everything"])
def test_what_is_decided_is_done_and_is_what_the_mask_says(monkeypatch, policy, dear):
    net = compiled(monkeypatch, costs(copy_rows=Rate(0.0, 0.0, 1.0)) if dear else costs(), policy)
    x, region = noise(1, 3, SIDE, SIDE), square(24)
    _, recording = net.record(x)
    edited = x.clone()
    edited[..., :24, :24] += 1
    edited[..., -1, -1] += 1  # outside the region: a run of everything sees it
    before, after = net.record(x)[0], net.update(recording, region, edited)
    changed = (before != after).any(1)
    assert net.explain(region).decision.whole == dear == bool(net.active_mask(region).all())
    assert net.schedules.of(region, frozenset()).whole == dear
    assert not (changed & ~net.active_mask(region)).any()
    assert bool(changed[0, -1, -1]) == dear


def test_a_crossover_overrides_costs(monkeypatch):
    dear = costs(copy_rows=Rate(0.0, 0.0, 1.0))
    always, never = (replace(PLAIN, crossover=share) for share in (1.0, 1e-9))
    assert not compiled(monkeypatch, dear, always).explain(square(24)).decision.whole
    decision = compiled(monkeypatch, costs(), never).explain(square(2)).decision
    assert decision.whole
    assert "the policy's crossover" in decision.reason


def test_where_no_costs_are_known_the_share_of_the_arithmetic_decides(monkeypatch):
    net = compiled(monkeypatch, None)
    small, large = (net.explain(square(side)).decision for side in (8, 31))
    assert (small.whole, large.whole) == (False, True)
    assert small.sparse_ms is small.whole_ms is small.predicted_ms is None
    assert "no costs are known" in large.reason
    assert "no prediction, not run yet" in str(net.explain(square(8)))


LARGE = square(28)


def dear_to_prepare(monkeypatch, updates, policy=PLAIN):
    """A network for which what `LARGE` takes to prepare is gained back by so many updates."""
    decision = compiled(monkeypatch, costs(entry=1e-7), policy).explain(LARGE).decision
    entry = 1e-7 * updates * (decision.whole_ms - decision.sparse_ms) / decision.preparing_ms
    return compiled(monkeypatch, costs(entry=entry), policy)


@pytest.mark.parametrize("updates", [0.5, 2.5, 40.5])
def test_what_a_region_takes_to_prepare_is_spread_over_its_updates(monkeypatch, updates):
    net = dear_to_prepare(monkeypatch, updates)
    active = net.active(LARGE)
    assert net.planner.break_even(active) == pytest.approx(updates)
    assert [net.planner.choose(active, uses).whole for uses in (1, 3, 41)] == [updates > 1, updates > 3, False]
    decision = net.planner.choose(active)
    new = decision.whole_ms if updates > 1 else decision.sparse_ms + decision.preparing_ms
    assert decision.predicted_new_ms == new


def test_a_session_of_many_steps_prepares_its_region_and_what_is_prepared_is_used(monkeypatch):
    net = dear_to_prepare(monkeypatch, 2.5)
    x, edited = noise(1, 3, SIDE, SIDE), noise(1, 3, SIDE, SIDE, seed=1)
    _, recording = net.record(x)
    for uses, whole in ((1, True), (1, True), (3, False), (1, False)):
        recording.uses = uses
        net.update(recording, LARGE, edited)
        assert net.explain(LARGE).decision.whole == whole == bool(net.active_mask(LARGE).all())
    net.forget()
    assert net.explain(LARGE).decision.whole


def test_regions_are_planned_once_while_their_schedules_are_small(monkeypatch):
    net, regions = compiled(monkeypatch, costs()), [square(side) for side in range(2, 9)]
    _, recording = net.record(noise(1, 3, SIDE, SIDE))
    made, build = [], net.schedules._made
    monkeypatch.setattr(net.schedules, "_made", lambda *given: made.append(given[0]) or build(*given))

    def twice():
        made.clear()
        for region in regions + regions:
            net.update(recording, region, noise(1, 3, SIDE, SIDE, seed=1))
        return made

    assert twice() == regions
    net.forget()
    monkeypatch.setattr("retouch.runtime.schedules.REMEMBERED", 0)
    assert twice() == regions + regions, "what is too large is dropped, the oldest first"


def test_an_exact_region_that_comes_again_is_prepared_and_gives_the_same(monkeypatch):
    net = dear_to_prepare(monkeypatch, 2.5, FOLLOWED)
    x = noise(1, 3, SIDE, SIDE)
    edited = torch.where(torch.tensor(LARGE.mask)[None], x + 1, x)
    _, recording = net.record(x)
    found = []
    for whole in (True, True, False, False):
        found.append(net.update(recording, LARGE, edited))
        assert net.explain(LARGE).decision.whole == whole
        recording.undo()
    assert all(torch.equal(found[0], each) for each in found)


def test_equal_regions_are_decided_alike_whatever_was_measured(monkeypatch):
    net = compiled(monkeypatch, costs())
    x = noise(1, 3, SIDE, SIDE)
    _, recording = net.record(x)
    decisions = []
    for _ in range(2):
        decisions.append(net.explain(square(20)).decision)
        net.update(recording, square(20), x + 1)
    assert decisions[0] == decisions[1]


def test_explain_tells_the_decision_and_what_an_update_took(monkeypatch):
    net = compiled(monkeypatch, costs(), replace(PLAIN, dense_below=0.6))
    region, x = square(8), noise(1, 3, SIDE, SIDE)
    before = net.explain(region)
    assert before.measured_ms is None
    assert "not run yet" in str(before)
    _, recording = net.record(x)
    net.update(recording, region, x + 1)
    after = net.explain(region)
    assert after.measured_ms > 0
    text = str(after)
    assert "an update computes the active rows" in text
    assert "grid 16x16 is computed whole: the policy says so" in text
    assert f"measured {after.measured_ms:.3g} ms" in text
    assert f"predicted {after.predicted_ms:.3g} ms" in text
    assert net.explain().decision is None
