"""Schedules whose steps are those of another region: the same calls as when they are emitted for it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from networks import case, compiled, record, update
from retouch import Region
from retouch.ir.operands import Columns, Temp
from retouch.ir.tables import Factors, Table
from retouch.runtime import schedules
from retouch.runtime.calls import leaves
from retouch.runtime.schedules import Planned
from retouch.runtime.state.layered import Snapshot
from retouch.runtime.store import Store
from support import BALANCED, EXACT, PROBED

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def told(schedule):
    """What a schedule does, with the content of its tables."""

    def instead(table):
        return schedule.instead.get(table, table)

    def described(leaf):
        if isinstance(leaf, Table | Factors):
            array = instead(leaf).array
            return array.shape, array.tobytes()
        if isinstance(leaf, Columns):
            return described(leaf.base), leaf.start, leaf.channels
        if isinstance(leaf, Temp):
            rows = leaf.rows if leaf.table is None else len(instead(leaf.table))
            return rows, leaf.channels, leaf.dtype
        return leaf

    def content(tables):
        return {v: t if t is None else (t.total, t.array.tobytes()) for v, t in tables.items()}

    steps = [(call.function, call.host, [described(leaf) for leaf in leaves(call.args)]) for call in schedule.steps]
    reads = {value: {table.array.tobytes() for table in tables} for value, tables in schedule.reads.items()}
    maps = [content(tables) for tables in (schedule.saves, schedule.stays, schedule.needs, schedule.active)]
    return steps, reads, maps, schedule.states, schedule.replaced, schedule.names


@pytest.mark.parametrize("policy", ["balanced", "fast", PROBED, EXACT], ids=["balanced", "fast", "probed", "exact"])
@pytest.mark.parametrize("name", ["ddpm-256", "sd15-unet", "sd3", "taesd", "resnet-generator", "rrdbnet"])
def test_a_new_region_has_the_calls_that_are_emitted_for_it(name, policy):
    net, made = compiled(name, policy), case(name)
    taken = 0
    for place in ((0.3, 0.5, 0.1), (0.31, 0.48, 0.1), (0.05, 0.1, 0.25), (0.0, 0.0, 2.0), (0.6, 0.62, 0.12)):
        active = net.active(Region.from_mask(made.spot(*place)))
        schedule = net.schedules.built(active, set())
        taken += bool(schedule.instead)
        net.schedules._like.clear()
        alone = net.schedules.built(active, set())
        assert not alone.instead
        assert told(schedule) == told(alone)
    if policy in ("balanced", "fast") and name == "ddpm-256":
        assert taken


def test_updates_with_steps_of_another_region_are_bit_for_bit_the_same():
    net, made = compiled("ddpm-256", "balanced"), case("ddpm-256")
    masks = [made.spot(0.1 * i, 0.7 - 0.1 * i, 0.12) for i in range(5)]
    expected = []
    for mask in masks:
        net.forget()
        net.schedules._like.clear()
        expected.append(update(net, record(net, made)[1], mask, made.edited(mask)))
    net.forget()
    net.schedules._like.clear()
    for mask, wanted in zip(masks, expected, strict=True):
        _, recording = record(net, made)
        before = {v: rows.clone() for v, rows in recording.buffers.items()}
        assert torch.equal(update(net, recording, mask, made.edited(mask)), wanted)
        recording.undo()
        assert all(torch.equal(recording.buffers[v], rows) for v, rows in before.items())
    taken = [planned.schedule for planned in net.schedules._planned.values() if planned.schedule.instead]
    assert taken
    assert all(np.diff(table.array).min(initial=1) > 0 for s in taken for table in s.active.values())


def test_regions_take_turns_with_the_calls_of_one():
    net, made = compiled("ddpm-256", "balanced"), case("ddpm-256")
    masks = [made.spot(0.1 * i, 0.7 - 0.1 * i, 0.12) for i in range(5)]
    snapshot = Snapshot.of(record(net, made)[1], Store())
    expected = []
    for mask in masks:
        net.forget()
        net.schedules._like.clear()
        expected.append(update(net, snapshot.recording(), mask, made.edited(mask)))
    net.forget()
    net.schedules._like.clear()
    for number in (0, 1, 0, 2, 2, 3, 4, 1, 3, 0):
        found = update(net, snapshot.recording(), masks[number], made.edited(masks[number]))
        assert torch.equal(found, expected[number])
    schedules = [planned.schedule for planned in net.schedules._planned.values()]
    taken = [schedule for schedule in schedules if schedule.pattern is not None]
    assert taken
    executors = {net.workspace.binding(schedule).executor for schedule in schedules}
    assert len(executors) == len(schedules) - len(taken)


def test_a_prepared_network_has_calls_for_its_first_region_and_its_recording_is_as_it_was():
    policy = replace(BALANCED, dense_below=0.0)
    net, made = compiled("ddpm-256", policy), case("ddpm-256")
    mask = made.spot(0.0, 0.0, 0.05)
    snapshot = Snapshot.of(record(net, made)[1], Store())
    net.schedules._like.clear()
    expected = update(net, snapshot.recording(), mask, made.edited(mask))
    net.forget()
    net.schedules._like.clear()
    before = {value: snapshot.rows(value) for value in snapshot.layers[0].tables}
    recording = snapshot.recording()
    net.prepare(recording)
    assert recording.snapshot is snapshot
    assert all(torch.equal(snapshot.rows(value), rows) for value, rows in before.items())
    calls = [*net.schedules._like[frozenset()]]
    assert len(calls) == 1
    net.prepare(snapshot.recording())
    assert net.schedules._like[frozenset()] == calls
    assert torch.equal(update(net, snapshot.recording(), mask, made.edited(mask)), expected)
    assert next(reversed(net.schedules._planned.values())).schedule.pattern is calls[0]


def test_a_region_that_is_planned_anew_is_not_dropped_for_it(monkeypatch):
    net, made = compiled("ddpm-256", "balanced"), case("ddpm-256")
    first, second = (Region.from_mask(made.spot(*place)) for place in ((0.3, 0.5, 0.1), (0.6, 0.62, 0.12)))
    plans = net.schedules
    monkeypatch.setattr(plans, "_made", lambda *asked: Planned(plans.nothing, asked[3] < 5, break_even=5))
    for region in (first, second):
        assert plans.of(region, frozenset()).whole
    monkeypatch.setattr(schedules, "FEWEST", 1)
    monkeypatch.setattr(schedules, "REMEMBERED", -1)
    assert not plans.of(first, frozenset(), uses=9).whole
    assert plans.seen(first) is not None
    assert plans.seen(second) is None
