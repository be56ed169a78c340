"""Whole networks through the Triton kernels, in the interpreter."""

import pytest
import torch

from kernels import interpreter
from networks import case, compiled, record, update
from retouch.plan.region import Region
from support import EXACT, PROBED, error, same, state

interpreter.correct()
pytestmark = [
    pytest.mark.filterwarnings("ignore:(divide by zero|invalid value|overflow):RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]


def test_exact_update_is_a_fresh_recording_bit_for_bit():
    net, made = compiled("taesd", EXACT, "triton"), case("taesd")
    edited = made.edited(made.spot())
    _, recording = record(net, made)
    before = state(recording)
    updated = update(net, recording, made.spot(), edited)
    fresh, again = record(net, edited)
    assert torch.equal(updated, fresh)
    assert same(state(recording), state(again))
    recording.undo()
    assert same(state(recording), before)


def test_agrees_with_the_compiled_kernels():
    made = case("ddpm-256")
    mask, results = made.spot(), []
    for backend in ("cpu", "triton"):
        net = compiled("ddpm-256", PROBED, backend)
        y, recording = record(net, made)
        updated = update(net, recording, mask, made.edited(mask))
        assert not net.active_mask(Region.from_mask(mask)).all()
        results.append((y, updated))
    (y, updated), (y_triton, updated_triton) = results
    assert error(y, y_triton) < 5e-5
    assert error(updated, updated_triton) < 5e-5
