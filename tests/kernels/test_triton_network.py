"""Whole networks through the Triton kernels, in the interpreter: small ones, as that takes a second for a layer."""

from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DModel

import retouch
from kernels import interpreter
from networks import Case, case, record, update
from retouch.plan.region import Region
from support import EXACT, PROBED, error, fill, noise, same, state

interpreter.correct()
pytestmark = [
    pytest.mark.filterwarnings("ignore:(divide by zero|invalid value|overflow):RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]


def test_exact_update_is_a_fresh_recording_bit_for_bit():
    made = replace(case("taesd"), args=(noise(1, 3, 16, 16),), size=(16, 16))
    net = retouch.compile(made.module, made.args, policy=EXACT, backend="triton")
    mask = made.spot(0.0, 0.0)
    edited = made.edited(mask)
    work = net.explain(Region.from_mask(mask))
    assert work.macs_active < work.macs_dense
    _, recording = record(net, made)
    before = state(recording)
    updated = update(net, recording, mask, edited)
    fresh, again = record(net, edited)
    assert torch.equal(updated, fresh)
    assert same(state(recording), state(again))
    recording.undo()
    assert same(state(recording), before)


def attentive():
    """A U-Net with attention on its smaller grid."""
    module = UNet2DModel(
        sample_size=16, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return Case(fill(module), (noise(1, 3, 16, 16), torch.tensor([3])), {}, (16, 16))


def test_agrees_with_the_compiled_kernels():
    made = attentive()
    mask, results = made.spot(), []
    for backend in ("cpu", "triton"):
        net = retouch.compile(made.module, made.args, policy=PROBED, backend=backend)
        assert not net.explain().fallbacks
        y, recording = record(net, made)
        updated = update(net, recording, mask, made.edited(mask))
        assert not net.active_mask(Region.from_mask(mask)).all()
        results.append((y, updated))
    (y, updated), (y_triton, updated_triton) = results
    assert error(y, y_triton) < 5e-5
    assert error(updated, updated_triton) < 5e-5
