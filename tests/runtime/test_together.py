"""Recordings that are updated together: each as by an update of its own."""

import pytest
import torch
from torch import Tensor

from networks import NAMES, case, compiled, edits, record
from retouch import Policy, Region, models
from retouch.runtime.state.layered import Snapshot
from retouch.runtime.store import Store
from support import EXACT, PROBED, SHARED

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

POLICIES = ("paper", "balanced", "fast", SHARED, PROBED, EXACT)


def update_many(net, recordings, mask, cases) -> list[Tensor]:
    region = Region.from_mask(mask)
    inputs = [net.signature.canonical(made.args, made.kwargs)[1] for made in cases]
    if net._last is not None:
        for rows in net._last.buffers.values():
            rows.fill_(float("nan"))
    return [models.tensor_of(y) for y in net.update_many(recordings, region, inputs)]


def single(net, recording, mask, made) -> Tensor:
    return models.tensor_of(net.update(recording, Region.from_mask(mask), *made.args, **made.kwargs))


def same_snapshots(a: Snapshot, b: Snapshot) -> bool:
    rows = all(torch.equal(a.rows(v), b.rows(v)) for v in a.layers[0].rows)
    return rows and a.states.keys() == b.states.keys() and all(torch.equal(a.states[s], t) for s, t in b.states.items())


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: p.name if isinstance(p, Policy) else p)
@pytest.mark.parametrize("name", NAMES)
def test_each_equals_an_update_of_its_own_bit_for_bit(name, policy):
    net, made = compiled(name, policy), case(name)
    snapshot = Snapshot.of(record(net, made)[1], Store())
    for mask, edited in edits(made, 2, seed=3):
        cases = [edited, edited.edited(mask, seed=21), edited.edited(mask, seed=22)]
        expected, alone = [], []
        for each in cases:
            restored = snapshot.recording()
            expected.append(single(net, restored, mask, each))
            alone.append(restored.snapshot)
        together = [snapshot.recording() for _ in cases]
        results = update_many(net, together, mask, cases)
        assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))
        assert all(same_snapshots(r.snapshot, s) for r, s in zip(together, alone, strict=True))
        snapshot = together[1].snapshot
