"""Recordings that are updated together: each as by an update of its own."""

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from networks import TEXT, Case, case, compiled, edits, record, update
from retouch import InputError, Policy, Region, compile, models
from retouch.ops.dense import Dense
from retouch.runtime.state.layered import Snapshot
from retouch.runtime.state.together import Together
from retouch.runtime.store import Store
from support import BALANCED, EXACT, PROBED, SHARED, fill, noise, spot

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

FAST = Policy("recorded", dilate=2, stats="recorded", crossover=1.0)
PART = Policy("part", dilate=1, dense_below=0.5, stats="probed", probes=9, probe_distance=1, crossover=1.0)
"""Small grids are computed whole."""

POLICIES = (FAST, SHARED, PROBED, PART, EXACT)
NAMES = ("ddpm-256", "sd15-unet", "sdxl-unet", "dit", "sd3", "taesd", "resnet-generator", "gaugan")


def update_many(net, recordings, masks, cases) -> list[Tensor]:
    if net._memory is not None:
        net._memory.fill_(255)  # not a number: what is read without being there shows
    regions = list(map(Region.from_mask, masks)) if isinstance(masks, list) else Region.from_mask(masks)
    results = net.update_many(recordings, regions, [(made.args, made.kwargs) for made in cases])
    return [models.tensor_of(result) for result in results]


def bases(net) -> list[tuple[int, ...]]:
    """Those of what was updated together."""
    return [schedule.bases for schedule in net._joined]


def same_snapshots(a: Snapshot, b: Snapshot) -> bool:
    rows = all(torch.equal(a.rows(v), b.rows(v)) for v in a.layers[0].tables)
    return rows and a.states.keys() == b.states.keys() and all(torch.equal(a.states[s], t) for s, t in b.states.items())


def alone(net, snapshots, masks, cases) -> tuple[list[Tensor], list[Snapshot]]:
    recordings = [snapshot.recording() for snapshot in snapshots]
    masks = masks if isinstance(masks, list) else [masks] * len(cases)
    results = [update(net, *each) for each in zip(recordings, masks, cases, strict=True)]
    return results, [recording.snapshot for recording in recordings]


def check(net, snapshots, masks, cases) -> list[Snapshot]:
    """Results and layers of an update together are those of updates alone; what follows from the former."""
    expected, after = alone(net, snapshots, masks, cases)
    recordings = [snapshot.recording() for snapshot in snapshots]
    results = update_many(net, recordings, masks, cases)
    assert all(map(torch.equal, results, expected))
    found = [recording.snapshot for recording in recordings]
    assert all(map(same_snapshots, found, after))
    return found


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: p.name)
@pytest.mark.parametrize("name", NAMES)
def test_variants_equal_updates_of_their_own_bit_for_bit(name, policy):
    net, made = compiled(name, policy), case(name)
    snapshot = Snapshot.of(record(net, made)[1], Store())
    net.release()
    for mask, edited in edits(made, 2, seed=3):
        cases = [edited, edited.edited(mask, seed=21), edited.edited(mask, seed=22)]
        snapshot = check(net, [snapshot] * 3, mask, cases)[1]
    assert set(bases(net)) == {(0, 0, 0)}


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: p.name)
@pytest.mark.parametrize("name", NAMES)
def test_regions_and_recordings_of_their_own(name, policy):
    net, made = compiled(name, policy), case(name)
    net.release()
    starts = [made, made.edited(made.spot(), seed=5), made]
    snapshots = [Snapshot.of(record(net, start)[1], Store()) for start in starts[:2]]
    snapshots.append(snapshots[0])
    for turn in range(2):
        masks = [made.spot(0.2 + 0.1 * turn, 0.15), made.spot(0.4, 0.2), made.spot(0.5 + 0.1 * turn, 0.15)]
        cases = [start.edited(mask, seed=60 + turn) for start, mask in zip(starts, masks, strict=True)]
        snapshots = check(net, snapshots, masks, cases)
    assert any(len(found) > 1 for found in bases(net)) or policy.exact


@pytest.mark.parametrize("policy", [FAST, PROBED], ids=lambda p: p.name)
def test_new_regions_take_the_steps_of_the_last_ones(policy):
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 3, 3, padding=1)
    x = noise(1, 3, 48, 48)
    net = compile(fill(nn.Sequential(*layers)), (x,), policy=policy, backend="cpu")
    snapshots = [Snapshot.of(net.record(x)[1], Store()) for _ in range(2)]
    whole = Case(net.module, (x,), {}, (48, 48))
    for turn in range(3):
        masks = [whole.spot(0.2 + 0.05 * turn, 0.3), whole.spot(0.6, 0.35 + 0.05 * turn, 0.15)]
        snapshots = check(net, snapshots, masks, [whole.edited(mask, seed=turn) for mask in masks])
    assert any(schedule.instead for schedule in net._joined)


@pytest.mark.parametrize("policy", [FAST, SHARED, PROBED], ids=lambda p: p.name)
def test_steps_of_their_own(policy):
    net, made = compiled("ddpm-256", policy), case("ddpm-256")
    net.release()
    starts = [replace(made, args=(made.args[0], made.args[1] - 7 * k)) for k in range(3)]
    snapshots = [Snapshot.of(record(net, start)[1], Store()) for start in starts]
    masks = [made.spot(0.2 + 0.15 * k, 0.2) for k in range(3)]
    cases = [start.edited(mask, seed=70) for start, mask in zip(starts, masks, strict=True)]
    cases[2] = replace(cases[2], args=(cases[2].args[0], cases[0].args[1]))
    check(net, snapshots, masks, cases)
    assert bases(net) == [(0, 1, 2)]


@pytest.mark.parametrize("policy", [SHARED, PROBED], ids=lambda p: p.name)
@pytest.mark.parametrize("name", TEXT)
def test_recordings_of_their_own_with_words_of_their_own(name, policy):
    net, made = compiled(name, policy), case(name)
    starts = [made, made.edited(made.spot(), seed=5)]
    starts = [replace(s, args=(*s.args[:2], s.args[2] * (k + 1), *s.args[3:])) for k, s in enumerate(starts)]
    snapshots = [Snapshot.of(record(net, start)[1], Store()) for start in starts]
    mask = made.spot(0.5, 0.2)
    cases = [start.edited(mask, seed=30 + k) for k, start in enumerate(starts)]
    cases.append(replace(cases[0], args=(cases[0].args[0], cases[0].args[1] - 100, *cases[0].args[2:])))
    after = check(net, [*snapshots, snapshots[0]], mask, cases)
    assert (0, 1, 0) in bases(net)
    check(net, after, mask, [each.edited(mask, seed=50) for each in cases])
    assert (0, 1, 2) in bases(net)


class Linear(nn.Module):
    """Linear attention: sums of outer products over the map, kept like statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.qkv, self.last = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 24, 1),
            nn.Conv2d(8, 4, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        q, k, v = (part.flatten(2).mT for part in self.qkv(x).chunk(3, 1))
        y = q.relu() @ (k.relu().mT @ v)
        return self.last(x + y.mT.view_as(x))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("policy", [SHARED, PROBED, EXACT], ids=lambda p: p.name)
def test_linear_attention(policy, batch):
    x, mask = noise(batch, 3, 16, 16), spot(16, 16)
    net = compile(fill(Linear()), (x,), policy=policy, backend="cpu")
    snapshot = Snapshot.of(net.record(x)[1], Store())
    cases = [Case(net.module, (torch.where(mask, noise(batch, 3, 16, 16, seed=k), x),), {}, (16, 16)) for k in (1, 2)]
    check(net, [snapshot] * 2, mask, cases)
    assert bases(net) == [(0, 0)]


@pytest.mark.parametrize("name", ["ddpm-256", "sd15-unet", "sd3"])
def test_the_reference_backend(name):
    net, made = compiled(name, PROBED, "reference"), case(name)
    snapshot, mask = Snapshot.of(record(net, made)[1], Store()), made.spot()
    cases = [made.edited(mask, seed=seed) for seed in (1, 2)]
    expected, _ = alone(net, [snapshot] * 2, mask, cases)
    results = update_many(net, [snapshot.recording() for _ in cases], mask, cases)
    for result, one in zip(results, expected, strict=True):
        torch.testing.assert_close(result, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", [FAST, SHARED, PROBED, PART], ids=lambda p: p.name)
@pytest.mark.parametrize("name", ["ddpm-256", "sd3"])
def test_recordings_in_place_with_undo_and_redo(name, policy):
    net, made = compiled(name, policy), case(name)
    (_, first), (_, second), (_, other) = (record(net, made) for _ in range(3))
    before = {v: rows.clone() for v, rows in first.buffers.items()}
    mask = made.spot()
    cases = [made.edited(mask, seed=seed) for seed in (1, 2)]
    snapshot = Snapshot.of(record(net, made)[1], Store())
    third = snapshot.recording()
    results = update_many(net, [first, second, third], mask, [*cases, cases[0]])
    expected = update(net, other, mask, cases[0])
    assert torch.equal(results[0], expected)
    assert torch.equal(results[2], expected)
    assert all(torch.equal(rows, other.buffers[v]) for v, rows in first.buffers.items())
    assert all(torch.equal(tensor, other.states[s]) for s, tensor in first.states.items())
    first.undo()
    assert all(torch.equal(rows, before[v]) for v, rows in first.buffers.items())
    assert not all(torch.equal(rows, before[v]) for v, rows in second.buffers.items())
    first.redo()
    assert torch.equal(update(net, first, made.spot(0.6), made), update(net, other, made.spot(0.6), made))


def test_bases_are_copied_in_once():
    net, made = compiled("sd15-unet", PROBED), case("sd15-unet")
    net.release()
    snapshot, mask = Snapshot.of(record(net, made)[1], Store()), made.spot()
    cases = [made.edited(mask, seed=seed) for seed in range(4)]
    recordings = [snapshot.recording() for _ in cases]
    update_many(net, recordings, mask, cases)
    assert [recording.bytes_read > 0 for recording in recordings] == [True, False, False, False]
    once, many = net.plan.kept_bytes, len(net._memory)
    added = net.demand(Region.from_mask(mask)).added
    needed = once + 4 * (added + 16 * 64 * len(net.plan.kept))  # and probes
    assert many <= needed * 5 / 4  # and room for what comes next
    net.release()
    assert net._memory is None


def test_what_is_the_same_for_all_is_computed_once():
    net, made = compiled("sd15-unet", SHARED), case("sd15-unet")
    snapshot, mask = Snapshot.of(record(net, made)[1], Store()), made.spot()

    def later(steps):
        changed = replace(made, args=(made.args[0], made.args[1] - steps, *made.args[2:]))
        return [changed.edited(mask, seed=seed) for seed in (1, 2)]

    with patch.object(Dense, "run", autospec=True, side_effect=Dense.run) as run:
        alone(net, [snapshot], mask, later(1)[:1])
        single = run.call_count
        update_many(net, [snapshot.recording() for _ in later(2)], mask, later(2))
    assert single > 0
    assert run.call_count == 2 * single


# What is not done together, and what fails


@pytest.mark.parametrize("mask", ["nothing", "everything"])
def test_nothing_and_everything_are_done_one_by_one(mask):
    net, made = compiled("ddpm-256", BALANCED), case("ddpm-256")
    net.release()
    snapshot = Snapshot.of(record(net, made)[1], Store())
    area = torch.full(made.size, mask == "everything")
    cases = [made.edited(area, seed=seed) for seed in (1, 2)]
    check(net, [snapshot] * 2, area, cases)
    assert net._memory is None


def test_words_that_change_where_nothing_is_drawn_leave_no_probes():
    class Told(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
            self.norm, self.time = nn.GroupNorm(2, 8), nn.Linear(4, 8)

        def forward(self, x, t):
            return self.last(self.norm(self.first(x) + self.time(t)[:, :, None, None]))

    x, t, none = noise(1, 3, 16, 16), noise(1, 4, seed=1), Region.from_mask(torch.zeros(16, 16, dtype=torch.bool))
    net = compile(fill(Told()), (x, t), policy=PROBED, backend="cpu")
    recording = net.record(x, t)[1]
    snapshot = Snapshot.of(net.record(x, t)[1], Store())
    expected, restored = net.update(recording, none, x, t + 1), snapshot.recording()
    assert torch.equal(net.update(restored, none, x, t + 1), expected)
    assert all(torch.equal(restored.snapshot.rows(v), rows) for v, rows in recording.buffers.items())
    both = [snapshot.recording() for _ in range(2)]
    for result in net.update_many(both, none, [((x, t + 1), {})] * 2):
        assert torch.equal(result, expected)


def test_what_cannot_be():
    net, made = compiled("ddpm-256", SHARED), case("ddpm-256")
    _, recording = record(net, made)
    region, inputs = Region.from_mask(made.spot()), (made.args, made.kwargs)
    with pytest.raises(InputError, match="0 recordings and 0 inputs"):
        net.update_many([], region, [])
    with pytest.raises(InputError, match="1 recordings and 2 inputs"):
        net.update_many([recording], region, [inputs, inputs])
    with pytest.raises(InputError, match="1 recordings and 2 regions"):
        net.update_many([recording], [region] * 2, [inputs])
    with pytest.raises(InputError, match="named twice"):
        net.update_many([recording, recording], region, [inputs, inputs])


@pytest.mark.parametrize("place", ["run", "receive"])
def test_a_failure_leaves_every_recording_as_it_was(place):
    net, made = compiled("sd15-unet", SHARED), case("sd15-unet")
    recordings = [record(net, made)[1] for _ in range(2)]
    before = [{v: rows.clone() for v, rows in r.buffers.items()} for r in recordings]
    mask = made.spot()
    cases = [made.edited(mask, seed=seed) for seed in (1, 2)]
    broken = Together if place == "run" else recordings[1]
    with patch.object(broken, place, side_effect=MemoryError), pytest.raises(MemoryError):
        update_many(net, recordings, mask, cases)
    for recording, rows in zip(recordings, before, strict=True):
        assert all(torch.equal(recording.buffers[v], old) for v, old in rows.items())
        assert not recording.deltas
    assert torch.equal(update_many(net, recordings, mask, cases)[0], update(net, record(net, made)[1], mask, cases[0]))


def test_changed_weights_end_the_memory_that_was_kept():
    net, made = compiled("ddpm-256", PROBED), case("ddpm-256")
    mask = made.spot()
    cases = [made.edited(mask, seed=seed) for seed in (1, 2)]
    weight = next(net.module.parameters())
    for scale in (1.0, 1.5):
        weight.data.mul_(scale)
        snapshot = Snapshot.of(record(net, made)[1], Store())
        check(net, [snapshot] * 2, mask, cases)
    weight.data.div_(1.5)


def test_a_mask_for_each_sample():
    net, made = compiled("sd15-unet", SHARED), case("sd15-unet")
    snapshot = Snapshot.of(record(net, made)[1], Store())
    masks = torch.stack([made.spot(), made.spot(0.6, 0.1)])
    cells = Region.from_mask(masks).mask
    assert len(cells) == 2
    cases = [made.edited(masks.any(0), seed=seed) for seed in (1, 2)]
    check(net, [snapshot] * 2, masks, cases)


@pytest.mark.parametrize("first", [False, True], ids=["one that knows it last", "one that knows it first"])
def test_recordings_keep_no_argument_that_is_the_callers(first):
    net, made = compiled("ddpm-256", SHARED), case("ddpm-256")
    mask, later = made.spot(), torch.full_like(made.args[1], 300)
    known, told = (net.record(made.image, time)[1] for time in (later.clone(), made.args[1]))
    recordings = [known, told] if first else [told, known]
    given = later.clone()
    net.update_many(recordings, Region.from_mask(mask), [((made.edited(mask).image, given), {})] * 2)
    given.fill_(7)
    time = net.program.inputs[1]
    assert time.grid is None
    for recording in recordings:
        assert torch.equal(recording.values[time], later)
