"""Schedules: temporaries share an arena without touching each other; a row does not know the others."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import retouch
from networks import case, compiled, record
from retouch import Region
from retouch.ir.operands import Columns, Slot, Temp, columns
from retouch.runtime.calls import ALIGNMENT, places
from support import EXACT, SHARED, edit, error, fill, noise, same, spot, state


def nbytes(temp):
    return temp.rows * temp.channels * temp.dtype.itemsize


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), min_size=1, max_size=20), st.data())
def test_temporaries_that_live_together_do_not_overlap(uses, data):
    temps = [Temp(data.draw(st.integers(1, 40)), data.draw(st.integers(1, 9)), torch.float32) for _ in range(10)]
    offsets, size = places([[temps[i] for i in use] for use in uses], nbytes)
    alive = {}
    for i, use in enumerate(uses):
        for t in use:
            first, _ = alive.setdefault(t, (i, i))
            alive[t] = (first, i)
    for a, (first, last) in alive.items():
        start, stop = offsets[temps[a]], offsets[temps[a]] + nbytes(temps[a])
        assert start % ALIGNMENT == 0
        assert stop <= size
        for b, (other_first, other_last) in alive.items():
            if a != b and first <= other_last and other_first <= last:
                other = offsets[temps[b]]
                assert stop <= other or other + nbytes(temps[b]) <= start


def test_columns_of_columns():
    temp = Temp(4, 10, torch.float32)
    part = columns(columns(temp, 2, 6), 1, 3)
    assert isinstance(part, Columns)
    assert (part.base, part.start, part.channels) == (temp, 3, 3)
    slot = Slot("kept", "x", 0, 10)
    assert slot.columns(2, 6).columns(1, 3) == Slot("kept", "x", 3, 3)


@pytest.mark.parametrize("name", ["ddpm-256", "sd3", "resnet-generator", "rrdbnet"])
def test_all_rows_as_an_update_is_a_fresh_recording(name, backend):
    """Every row active, in the buffers of a recording, statistics refreshed."""
    net, made = compiled(name, EXACT, backend), case(name)
    edited = made.edited(torch.ones(made.size, dtype=torch.bool))
    _, recording = record(net, made)
    fresh, expected = record(net, edited)
    leaves = net.signature.flatten(edited.args, edited.kwargs)
    net._feed(recording, leaves)
    recording.run(net.schedules.everything)
    assert same(state(recording), state(expected))
    assert fresh.isfinite().all()


def test_statistics_stay_exact_over_many_updates(backend):
    """Old rows subtracted, new rows added, a hundred times."""
    module = fill(nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 1)))
    x = noise(1, 3, 12, 12) + 5
    net = retouch.compile(module, (x,), policy=SHARED, backend=backend)
    _, recording = net.record(x)
    for i in range(100):
        mask = spot(12, 12, i % 10, (3 * i) % 10, 2)
        x = edit(x, mask, seed=i)
        net.update(recording, Region.from_mask(mask).dilated(2), x)
    _, fresh = net.record(x)
    for slot, value in recording.states.items():
        assert error(value, fresh.states[slot]) < 1e-6, slot.kind


def test_recorded_statistics_are_those_of_the_original(backend):
    module = fill(nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 1)))
    x, mask = noise(1, 3, 12, 12), spot(12, 12)
    net = retouch.compile(module, (x,), policy="fast", backend=backend)
    _, recording = net.record(x)
    before = [t.clone() for t in recording.states.values()]
    net.update(recording, Region.from_mask(mask), edit(x, mask))
    assert same(before, list(recording.states.values()))


def test_a_schedule_is_made_once_for_a_region():
    module = fill(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)))
    x, region = noise(1, 3, 16, 16), Region.from_mask(spot(16, 16))
    net = retouch.compile(module, (x,), policy=SHARED)
    again = Region.from_mask(spot(16, 16))
    assert net.schedules.of(region, frozenset()).schedule is net.schedules.of(again, frozenset()).schedule
