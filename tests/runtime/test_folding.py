"""Folding: fewer layers, the same rows, and the same updates bit for bit."""

import pytest
import torch

from networks import case, compiled, edits, record, update
from retouch.runtime.blocks import StoreError
from retouch.runtime.state import folding
from retouch.runtime.state.layered import Snapshot
from retouch.runtime.store import Store
from support import BALANCED, EXACT, PROBED

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def stepped(snapshot, mask, made):
    restored = snapshot.recording()
    return update(snapshot.net, restored, mask, made), restored.snapshot


@pytest.mark.parametrize("policy", [BALANCED, PROBED, EXACT], ids=["balanced", "probed", "exact"])
@pytest.mark.parametrize("name", ["ddpm-256", "sd15-unet"])
def test_folded_layers_read_like_the_ones_that_they_were(name, policy, monkeypatch):
    net, made = compiled(name, policy), case(name)
    snapshot = Snapshot.of(record(net, made)[1], Store())
    _, recording = record(net, made)
    monkeypatch.setattr(folding, "MANY", 2)
    monkeypatch.setattr(folding, "MOST", 2)
    for mask, edited in edits(made, 7, seed=5):
        expected = update(net, recording, mask, edited)
        before, held = snapshot, {v: snapshot.rows(v) for v in snapshot.layers[0].tables}
        result, snapshot = stepped(snapshot, mask, edited)
        assert torch.equal(result, expected)
        assert len(snapshot.layers) <= 4  # a base, two, and the new one
        assert all(torch.equal(snapshot.rows(v), rows) for v, rows in recording.buffers.items())
        assert all(torch.equal(snapshot.states[s], t) for s, t in recording.states.items())
        assert all(torch.equal(before.rows(v), rows) for v, rows in held.items())  # what it came from is as it was


def test_layers_stay_few_and_a_row_is_copied_a_few_times_in_all(monkeypatch):
    net, made = compiled("ddpm-256", EXACT), case("ddpm-256")
    snapshot, written = Snapshot.of(record(net, made)[1], Store()), []
    fold = folding.folded
    monkeypatch.setattr(folding, "folded", lambda *args: written.append(fold(*args)) or written[-1])
    edit = made.edited(made.spot())
    _, after = stepped(snapshot, made.spot(), edit)
    layer = after.layers[-1]
    for _ in range(128):
        snapshot = snapshot.grown(layer)
        assert len(snapshot.layers) <= folding.MOST + 2
    assert sum(each.nbytes for each in written) <= 3 * 128 * layer.nbytes


def test_a_deep_snapshot_is_one_that_folding_makes_shallow():
    net, made = compiled("ddpm-256", EXACT), case("ddpm-256")
    snapshot = Snapshot.of(record(net, made)[1], Store())
    _, after = stepped(snapshot, made.spot(), made.edited(made.spot()))
    deep = next(each for each in growing(snapshot, after.layers[-1]) if each.is_deep)
    assert len(deep.layers) == folding.MANY + 2
    shallow = deep.folded()
    assert not shallow.is_deep
    assert len(shallow.layers) == 2
    assert all(torch.equal(shallow.rows(v), deep.rows(v)) for v in deep.layers[0].tables)


def growing(snapshot, layer):
    while True:
        yield snapshot
        snapshot = snapshot.grown(layer)


def test_a_full_disk_folds_nothing(tmp_path):
    net, made = compiled("ddpm-256", EXACT), case("ddpm-256")
    store = Store(0, tmp_path / "gone", "fp32")
    snapshot = Snapshot.of(record(net, made)[1], store)
    _, snapshot = stepped(snapshot, made.spot(), made.edited(made.spot()))
    for _ in range(folding.MOST - 1):
        snapshot = snapshot.grown(snapshot.layers[-1])
    layers = snapshot.grown(snapshot.layers[-1]).layers
    (tmp_path / "gone").rmdir()
    (tmp_path / "gone").write_text("a file in the place of the folder")
    many = Snapshot(net, store, layers, snapshot.hashes)
    with pytest.raises(StoreError):
        many.grown(layers[-1])
    assert many.layers == layers
