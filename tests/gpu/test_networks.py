"""Whole networks on the GPU: updates against fresh recordings, the native kernels of the CPU, and graphs."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

import retouch
from networks import NAMES, Case, case, compiled, edits, record, update
from retouch.kernels.devices import moved
from retouch.runtime.state.layered import Snapshot
from retouch.runtime.store import Store
from support import EXACT, PROBED, error, same, state

RUNS = 3
"""Of one region: the first launches kernels one by one, the second captures a graph, the third replays it."""


def placed(made: Case, device: torch.device) -> Case:
    """The arguments on the device."""
    args, kwargs = moved((made.args, made.kwargs), device)
    return replace(made, args=args, kwargs=kwargs)


def on(made: Case, device: torch.device) -> Case:
    """Module and arguments on the device."""
    return replace(placed(made, device), module=deepcopy(made.module).to(device))


@pytest.mark.parametrize("name", NAMES)
def test_an_exact_update_is_a_fresh_recording(gpu, name):
    made = case(name)
    here = on(made, gpu)
    net = retouch.compile(here.module, here.args, here.kwargs, policy=EXACT)
    assert net.backend.name == "triton"
    _, recording = record(net, here)
    before = state(recording)
    edited = placed(made.edited(made.spot()), gpu)
    updated = update(net, recording, made.spot(), edited)
    fresh, _ = record(net, edited)
    assert error(updated.cpu(), fresh.cpu()) < 2e-5
    recording.undo()
    assert same(state(recording), before)


@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_the_cpu(gpu, name):
    made = case(name)
    here = on(made, gpu)
    net, other = retouch.compile(here.module, here.args, here.kwargs, policy=PROBED), compiled(name, PROBED)
    y, recording = record(net, here)
    y_cpu, recording_cpu = record(other, made)
    assert error(y.cpu(), y_cpu) < 1e-4
    for mask, edited in edits(made, 3, seed=5):
        updated = update(net, recording, mask, placed(edited, gpu))
        assert error(updated.cpu(), update(other, recording_cpu, mask, edited)) < 2e-4


@pytest.mark.parametrize("name", NAMES)
def test_graphs_repeat_what_was_launched(gpu, name):
    made = case(name)
    here = on(made, gpu)
    net = retouch.compile(here.module, here.args, here.kwargs, policy=PROBED)
    snapshot = Snapshot.of(record(net, here)[1], Store(device=gpu))
    mask = made.spot()
    edited = placed(made.edited(mask), gpu)
    found = []
    for _ in range(RUNS):
        restored = snapshot.recording()
        restored.uses = 20
        found.append(update(net, restored, mask, edited).cpu())
    assert net.backend.graphs
    assert all(torch.equal(found[0], each) for each in found[1:])
