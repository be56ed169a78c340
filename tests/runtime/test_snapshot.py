"""Snapshots: an update from one equals an update in place, and nothing that it holds is written."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from networks import NAMES, TEXT, case, compiled, edits, record, update
from retouch import Policy, Region, kernels
from retouch.kernels.transfers import Transfers
from retouch.runtime.blocks import StoreError, read
from retouch.runtime.state.layered import Snapshot
from retouch.runtime.state.layers import layer_of
from retouch.runtime.store import Store
from support import BALANCED, EXACT, PROBED, SHARED, same

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

POLICIES = ("paper", BALANCED, replace(Policy.named("fast"), keys_values="recorded"), SHARED, PROBED, EXACT)


def poison(net, returned: bool = False) -> None:
    """Make every row of the workspace a NaN: reading one that was not loaded shows in the result.

    returned: those, too, that the module returned.
    """
    if returned:
        net.workspace.returned = None
    stay = net.workspace.results if net.workspace.returned else ()
    for value, rows in net.workspace.buffers.items():
        if value not in stay:
            rows.fill_(float("nan"))


def step(net, snapshot: Snapshot, mask: Tensor, made) -> tuple[Tensor, Snapshot]:
    poison(net)
    restored = snapshot.recording()
    result = update(net, restored, mask, made)
    return result, restored.snapshot


def contents(snapshot: Snapshot) -> list[Tensor]:
    """A copy of everything that a snapshot stands for."""
    rows = [snapshot.rows(v) for v in snapshot.layers[0].tables]
    states = sorted(snapshot.states.items(), key=lambda item: (item[0].kind, item[0].key.name))
    return [*rows, *(t.clone() for _, t in states)]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: p.name if isinstance(p, Policy) else p)
@pytest.mark.parametrize("name", NAMES)
def test_updates_equal_those_in_place_bit_for_bit(name, policy):
    net, made = compiled(name, policy), case(name)
    _, recording = record(net, made)
    snapshot = Snapshot.of(record(net, made)[1], Store())
    first, states = contents(snapshot), []
    for number, (mask, edited) in enumerate(edits(made, 4, seed=3)):
        expected = update(net, recording, mask, edited)
        if number == 2:
            poison(net, returned=True)
        result, snapshot = step(net, snapshot, mask, edited)
        assert torch.equal(result, expected)
        assert all(torch.equal(snapshot.rows(v), net.workspace.buffers[v]) for v in net.workspace.results)
        states.append((snapshot, contents(snapshot)))
        assert all(torch.equal(snapshot.rows(v), rows) for v, rows in recording.buffers.items())
        assert all(torch.equal(snapshot.states[s], t) for s, t in recording.states.items())
    assert all(same(contents(s), held) for s, held in states)
    assert same(contents(Snapshot(net, snapshot.store, snapshot.layers[:1], snapshot.hashes)), first)


@pytest.mark.parametrize("name", ["ddpm-256", "sd15-unet", "dit", "sd3"])
def test_reference_backend(name):
    net, made = compiled(name, BALANCED, "reference"), case(name)
    _, recording = record(net, made)
    snapshot = Snapshot.of(record(net, made)[1], Store())
    for mask, edited in edits(made, 2, seed=3):
        expected = update(net, recording, mask, edited)
        result, snapshot = step(net, snapshot, mask, edited)
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TEXT)
def test_a_changed_prompt_is_kept_by_the_layer(name):
    net, made = compiled(name, BALANCED), case(name)
    snapshot = Snapshot.of(record(net, made)[1], Store())
    args = (*made.args[:2], *(a.flip(-1) for a in made.args[2:]))
    other = type(made)(made.module, args, made.kwargs, made.size)
    mask = made.spot()
    _, after = step(net, snapshot, mask, other.edited(mask))
    assert not same([after.dense[v] for v in after.dense], [snapshot.dense[v] for v in after.dense])


def test_a_layer_shares_dense_values_and_tables_and_makes_no_views():
    net, made = compiled("sd15-unet", BALANCED), case("sd15-unet")
    before = Snapshot.of(record(net, made)[1], Store())
    args = (*made.args[:2], *(a.flip(-1) for a in made.args[2:]))
    _, after = step(net, before, made.spot(), type(made)(made.module, args, made.kwargs, made.size))
    layer, store = after.layers[-1], after.store
    assert "tensors" not in vars(layer.block)
    assert store.in_memory == before.nbytes + layer.nbytes
    for value, content in layer.dense.items():
        assert layer.block.tensors[f"dense/{value.name}"] is content
    assert layer.form.states
    lies = layer.block.memory.untyped_storage().data_ptr()
    assert all(layer.state(slot).untyped_storage().data_ptr() == lies for slot in layer.form.states)
    assert layer.nbytes == sum(tensor.nbytes for tensor in layer.block.tensors.values())


def test_edits_that_are_dropped_take_no_more_memory():
    net, made = compiled("ddpm-256", BALANCED), case("ddpm-256")
    snapshot = Snapshot.of(record(net, made)[1], Store())
    mask = made.spot()
    sizes = set()
    for seed in range(30):
        _, after = step(net, snapshot, mask, made.edited(mask, seed))
        sizes.add(snapshot.store.in_memory)
        del after
    assert len(sizes) == 1
    assert snapshot.store.in_memory == snapshot.nbytes


def test_nothing_changed_reads_the_result_and_adds_no_layer():
    net, made = compiled("ddpm-256", BALANCED), case("ddpm-256")
    y, recording = record(net, made)
    snapshot = Snapshot.of(recording, Store())
    result, after = step(net, snapshot, torch.zeros(made.size, dtype=torch.bool), made)
    assert torch.equal(result, y)
    assert after is snapshot


@pytest.mark.parametrize("budget", [None, 0], ids=["memory", "files"])
@pytest.mark.parametrize(("dtype", "bound"), [("fp32", 0), ("fp16", 2e-3), ("bf16", 2e-2)])
def test_storage(dtype, bound, budget, tmp_path):
    net, made = compiled("sd15-unet", BALANCED), case("sd15-unet")
    _, recording = record(net, made)
    store = Store(budget, tmp_path, dtype)
    snapshot = Snapshot.of(record(net, made)[1], store)
    assert (store.in_files if budget == 0 else store.in_memory) == snapshot.nbytes
    for mask, edited in edits(made, 2, seed=3):
        expected = update(net, recording, mask, edited)
        result, snapshot = step(net, snapshot, mask, edited)
        assert float((result - expected).abs().max() / expected.abs().max()) <= bound
    kept = sum(rows.numel() for rows in recording.buffers.values())
    rows = sum(snapshot.layers[0].rows(v).nbytes for v in snapshot.layers[0].tables)
    assert rows == kept * (4 if dtype == "fp32" else 2)
    del snapshot
    assert store.in_files == store.in_memory == 0
    assert list(tmp_path.iterdir()) == []


class Counted(Transfers):
    """Counts the bytes that are sent, and notes when it is waited for."""

    def __init__(self):
        super().__init__(torch.device("cpu"))
        self.sent, self.settled = [], 0

    def send(self, parts):
        sent = super().send(parts)
        self.sent.append(sum(tensor.nbytes for tensor in sent.tensors))
        return sent

    def settle(self):
        self.settled += 1


@pytest.fixture
def transfers(monkeypatch):
    """The reference backend as one of a device: what is in no memory of the device has to be brought."""
    found = Counted()
    monkeypatch.setattr(kernels.backend("reference"), "transfers", found)
    return found


@pytest.mark.parametrize("place", ["device", "device and host", "host", "files"])
@pytest.mark.parametrize(("name", "policy"), [("ddpm-256", BALANCED), ("sd15-unet", PROBED), ("taesd", EXACT)])
def test_rows_that_a_device_has_no_memory_for(name, policy, place, transfers, tmp_path):
    net, made = compiled(name, policy, "reference"), case(name)
    _, recording = record(net, made)
    size = recording.nbytes
    budgets = {"device": (0, 4 * size), "device and host": (4 * size, size), "host": (4 * size, 0)}
    budget, device_budget = budgets.get(place, (0, 0))
    store = Store(budget, tmp_path, device_budget=device_budget)
    snapshot = Snapshot.of(record(net, made)[1], store)
    read = 0
    for mask, edited in edits(made, 4, seed=3):
        expected = update(net, recording, mask, edited)
        result, snapshot = step(net, snapshot, mask, edited)
        assert torch.equal(result, expected)
        read += sum(transfers.sent)
    assert (store.on_device > 0) == (place in ("device", "device and host"))
    assert (store.in_memory > 0) == (place in ("device and host", "host"))
    assert (store.in_files > 0) == (place == "files")
    assert (read > 0) == (place != "device")
    assert all(torch.equal(snapshot.rows(v), rows) for v, rows in recording.buffers.items())


def test_rows_that_were_fetched_before_the_update(transfers):
    """They are not fetched again; an update of another region brings its own."""
    net, made = compiled("ddpm-256", BALANCED, "reference"), case("ddpm-256")
    _, recording = record(net, made)
    snapshot = Snapshot.of(record(net, made)[1], Store(device_budget=0))
    masks = made.spot(), made.spot(0.6, 0.1)
    regions = [Region.from_mask(mask) for mask in masks]
    schedule = net.schedules.of(regions[0], frozenset()).schedule
    for region, mask, sends in zip(regions, masks, (1, 2), strict=True):
        restored = snapshot.recording()
        transfers.sent.clear()
        restored.fetch(schedule.around, schedule.before)
        poison(net)
        found = net.update(restored, region, *made.edited(mask).args).sample
        assert len(transfers.sent) == sends
        assert torch.equal(found, net.update(recording, region, *made.edited(mask).args).sample)
        assert restored.bytes_read == transfers.sent[-1]
        recording.undo()


@pytest.mark.parametrize("name", ["ddpm-256", "sd15-unet", "dit", "sd3"])
def test_layers_come_back_from_files(name, tmp_path):
    net, made = compiled(name, BALANCED), case(name)
    store = Store()
    snapshot = Snapshot.of(record(net, made)[1], store, tmp_path / "base.safetensors")
    (mask, edited), (other_mask, other) = edits(made, 2, seed=3)
    restored = snapshot.recording()
    restored.file = tmp_path / "edit.safetensors"
    update(net, restored, mask, edited)
    layers = tuple(layer_of(net, read(tmp_path / f"{part}.safetensors")) for part in ("base", "edit"))
    again = Snapshot(net, store, layers, snapshot.hashes)
    assert same(contents(again), contents(restored.snapshot))
    expected, _ = step(net, restored.snapshot, other_mask, other)
    result, _ = step(net, again, other_mask, other)
    assert torch.equal(result, expected)


def test_a_layer_of_another_network_is_refused(tmp_path):
    net, made = compiled("ddpm-256", BALANCED), case("ddpm-256")
    Snapshot.of(record(net, made)[1], Store(), tmp_path / "base.safetensors")
    with pytest.raises(StoreError, match="does not fit the network"):
        layer_of(compiled("dit", BALANCED), read(tmp_path / "base.safetensors"))


def test_a_failed_update_leaves_the_snapshot(monkeypatch):
    net, made = compiled("ddpm-256", BALANCED), case("ddpm-256")
    snapshot = Snapshot.of(record(net, made)[1], Store())
    before = contents(snapshot)
    mask = made.spot()
    restored = snapshot.recording()
    monkeypatch.setattr(type(restored), "commit", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        update(net, restored, mask, made.edited(mask))
    monkeypatch.undo()
    assert same(contents(snapshot), before)
    with pytest.raises(RuntimeError, match="takes one update"):
        update(net, restored, mask, made.edited(mask))


def test_what_the_module_returned_is_brought_only_where_it_is_not_there():
    net, made = compiled("ddpm-256", BALANCED), case("ddpm-256")
    base, other = (Snapshot.of(record(net, made)[1], Store()) for _ in range(2))
    mask, elsewhere = made.spot(), made.spot(0.6, 0.1)
    drawn, again = made.edited(mask), made.edited(elsewhere, seed=2)

    def updated(snapshot, *edit):
        restored = snapshot.recording()
        return update(net, restored, *edit), restored

    poison(net, returned=True)
    _, restored = updated(base, mask, drawn)
    newest = restored.snapshot
    for snapshot, stays in ((newest, True), (newest, False), (base, False), (other, False), (newest, False)):
        result, restored = updated(snapshot, elsewhere, again)
        poison(net, returned=True)
        expected, whole = updated(snapshot, elsewhere, again)
        assert torch.equal(result, expected)
        assert (restored.bytes_read < whole.bytes_read) == stays


def test_what_a_failed_update_or_narrow_rows_left_is_not_taken_for_what_was_returned(monkeypatch):
    net, made = compiled("ddpm-256", BALANCED), case("ddpm-256")
    mask = made.spot()
    narrow, exact = (Snapshot.of(record(net, made)[1], Store(dtype=dtype)) for dtype in ("bf16", "fp32"))
    for snapshot, there in ((narrow, False), (exact, True)):
        update(net, snapshot.recording(), mask, made.edited(mask))
        assert (net.workspace.returned is not None) == there
    restored = exact.recording()
    monkeypatch.setattr(restored, "run", lambda schedule: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        update(net, restored, mask, made.edited(mask))
    assert net.workspace.returned is None


def test_region_of_another_grid_is_refused():
    net, made = compiled("ddpm-256", BALANCED), case("ddpm-256")
    snapshot = Snapshot.of(record(net, made)[1], Store())
    with pytest.raises(ValueError, match="the region is"):
        net.update(snapshot.recording(), Region.from_mask(torch.ones(5, 5, dtype=torch.bool)), *made.args)
