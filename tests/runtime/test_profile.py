"""What an update computed, told from the rows that it left, and how long its operations take."""

import numpy as np
import pytest
import torch

from networks import NAMES, compiled, edits, record, update
from networks import case as made_case
from retouch import Policy, Region
from retouch.plan import activity
from retouch.runtime.state.layered import Snapshot
from retouch.runtime.store import Store
from support import EXACT, PROBED, SHARED

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

POLICIES = (SHARED, PROBED, EXACT)


def edited(name, policy):
    """A network, an edit with its mask, and the snapshots before and after it."""
    net, made = compiled(name, policy), made_case(name)
    before = Snapshot.of(record(net, made)[1], Store())
    ((mask, after),) = edits(made, 1, seed=3)
    restored = before.recording()
    update(net, restored, mask, after)
    return net, mask, before, restored.snapshot


def computed(net, after):
    rows = after.layers[-1].tables
    changed = {value for value in after.layers[-1].dense if value in net.program.inputs}
    return activity.retraced(net.program, net.policy, rows, changed)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
@pytest.mark.parametrize("name", NAMES)
def test_what_was_computed_is_told_from_the_rows_that_are_left(name, policy):
    net, mask, _, after = edited(name, policy)
    found, expected = computed(net, after), net.active(Region.from_mask(mask))
    assert found.keys() == expected.keys()
    for value, table in expected.items():
        assert np.array_equal(found[value].array, table.array), value
        assert (found[value].probes is None) == (table.probes is None)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
def test_the_same_update_is_timed_and_leaves_no_trace(policy):
    net, _, before, after = edited("ddpm-256", policy)
    active = computed(net, after)
    inputs = {v: after.rows(v)[torch.from_numpy(active[v].array)] for v in net.program.inputs if v.grid}
    for _ in range(2):
        recording = before.recording()
        seconds = net.profile(recording, active, inputs)
        assert recording.snapshot is before
        for value, table in after.layers[-1].tables.items():
            rows = after.layers[-1].rows(value)
            assert torch.equal(net.workspace.buffers[value][torch.from_numpy(table.array)], rows)
    launched = {op.out.name for op in net.program.ops if op.arithmetic(1) and op.out.grid and len(active[op.out])}
    assert launched <= {name for name, taken in seconds.items() if taken > 0}
    assert seconds.keys() - {""} <= {op.out.name for op in net.program.ops}


def test_an_update_of_everything_is_timed():
    net, made = compiled("ddpm-256", Policy("whole", crossover=0.01)), made_case("ddpm-256")
    snapshot = Snapshot.of(record(net, made)[1], Store())
    active = computed(net, snapshot)
    assert all(table.complete for table in active.values())
    inputs = {v: snapshot.rows(v) for v in net.program.inputs if v.grid}
    seconds = net.profile(snapshot.recording(), active, inputs)
    assert sum(seconds.values()) > 0
    for value in snapshot.layers[0].tables:
        assert torch.equal(net.workspace.buffers[value], snapshot.layers[0].rows(value))
