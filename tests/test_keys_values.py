"""Keys and values of self-attention that are recorded, kept as int8, or computed again of what they are made of."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from dits import GRID, taken, transformer
from networks import compiled as network_compiled
from retouch import Policy, PolicyError, Region
from retouch.runtime.state.layered import Snapshot
from retouch.runtime.store import Store
from support import EXACT, PROBED, SHARED, error, same, spot, state

KEYS_VALUES = ("recorded", "int8", "recomputed")
NAMES = ("flux", "flux2", "qwen", "sd3.5", "pixart")
MASK = spot(*GRID)


@cache
def compiled(name, how, policy=SHARED):
    return transformer(name).compiled(replace(policy, keys_values=how))


def region(name, mask=MASK):
    scale = transformer(name).scale
    return Region.from_mask(mask.repeat_interleave(scale, 0).repeat_interleave(scale, 1))


def updated(net, recording, name, seed=7):
    made = transformer(name)
    return taken(net.update(recording, region(name), **made.arguments | made.edited(MASK, seed)))


@pytest.mark.parametrize("policy", [SHARED, EXACT], ids=lambda policy: policy.name)
@pytest.mark.parametrize("name", NAMES)
def test_computed_again_they_are_what_they_were_bit_for_bit(name, policy):
    found = []
    for how in ("recorded", "recomputed"):
        net = compiled(name, how, policy)
        y, recording = net.record(**transformer(name).arguments)
        before = state(recording)
        found.append((taken(y).clone(), updated(net, recording, name)))
        recording.undo()
        assert same(before, state(recording))
    for recorded, recomputed in zip(*found, strict=True):
        assert torch.equal(recorded, recomputed)
    assert not torch.equal(*found[0])


@pytest.mark.parametrize("name", NAMES)
def test_half_as_many_rows_are_kept(name):
    kept = {}
    for how in ("recorded", "recomputed"):
        plan = compiled(name, how).plan
        kept[how] = sum(v.nbytes for v in plan.keys_values)
        assert plan.keys_values <= set(plan.kept)
    assert kept["recomputed"] == 0.5 * kept["recorded"] > 0


@pytest.mark.parametrize("policy", [SHARED, PROBED], ids=lambda policy: policy.name)
@pytest.mark.parametrize("how", KEYS_VALUES)
def test_snapshots_hold_fewer_bytes_and_err_little(how, policy):
    name = "flux"
    net = compiled(name, how, policy)
    exact = updated(net, net.record(**transformer(name).arguments)[1], name)
    snapshot = Snapshot.of(net.record(**transformer(name).arguments)[1], Store())
    types = {snapshot.types[v] for v in net.plan.keys_values}
    assert types == {torch.float32 if how == "recorded" else torch.int8}
    found = updated(net, snapshot.recording(), name)
    assert torch.equal(found, exact) if how == "recorded" else 0 < error(found, exact) < 0.02
    assert torch.equal(updated(net, snapshot.recording(), name), found)


@pytest.mark.parametrize("how", KEYS_VALUES)
def test_edits_leave_no_trace_in_rows_outside(how):
    name, net = "flux", compiled("flux", how)
    first = snapshot = Snapshot.of(net.record(**transformer(name).arguments)[1], Store())
    before = {v: first.rows(v) for v in first.types}
    for seed in range(9):  # more than are kept apart: layers are folded
        restored = snapshot.recording()
        updated(net, restored, name, seed)
        snapshot = restored.snapshot
    active = net.active(region(name))
    for value, rows in before.items():
        outside = torch.ones(len(rows), dtype=torch.bool)
        outside[torch.from_numpy(active[value].array).long()] = False
        assert outside.any()
        assert torch.equal(snapshot.rows(value)[outside], rows[outside])
        assert torch.equal(first.rows(value), rows)


def test_recordings_are_updated_together_as_each_by_itself():
    net, made = compiled("flux", "recomputed"), transformer("flux")
    recordings = [net.record(**made.arguments)[1] for _ in range(2)]
    alone = [updated(net, recording, "flux", seed) for seed, recording in enumerate(recordings)]
    for recording in recordings:
        recording.undo()
    inputs = [((), made.arguments | made.edited(MASK, seed)) for seed in range(2)]
    together = net.update_many(recordings, region("flux"), inputs)
    assert all(torch.equal(taken(a), b) for a, b in zip(together, alone, strict=True))


def test_what_is_computed_again_counts_as_arithmetic():
    recorded, again = (compiled("flux", how).explain(region("flux")) for how in ("recorded", "recomputed"))
    assert recorded.macs_dense == again.macs_dense
    assert recorded.macs_active < again.macs_active < again.macs_dense
    lines = {line.name: line for line in again.lines}
    for value in compiled("flux", "recomputed").plan.recomputed:
        assert lines[value.name].active == lines[value.name].rows


def test_linear_layers_that_read_more_than_they_make_are_left_alone():
    """Keys of another grid's rows, or of as many rows as they are, stay as they are."""
    net = compiled("sana", "recomputed")  # its attention has no softmax
    assert not net.plan.recomputed


def test_policies_that_cannot_be():
    with pytest.raises(PolicyError, match="'recorded', 'int8', 'recomputed', 'auto'"):
        Policy(keys_values="forgotten")


def test_where_they_are_most_of_a_recording_they_are_computed_again():
    assert compiled("flux", "auto").plan.recomputed
    net = network_compiled("sd15-unet", replace(SHARED, keys_values="auto"))
    assert net.plan.narrow
    assert net.plan.keys_values
    assert not net.plan.recomputed
