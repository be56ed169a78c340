"""Rows as int8: how far they are from what they were, and what is kept as what."""

import pytest
import torch

from networks import case, compiled, edits, record, update
from retouch.ops.copy import ENDS, SCALE, STEPS, quantized, restored, spread, spread_values
from retouch.runtime.blocks import read
from retouch.runtime.state.layered import Snapshot
from retouch.runtime.state.layers import layer_of
from retouch.runtime.store import FEWEST, PART, Store, columns_of
from support import EXACT, error, noise

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def test_a_row_errs_by_half_a_level_and_does_not_depend_on_others():
    rows = noise(50, 33) * torch.logspace(-20, 20, 50)[:, None]
    rows[7] = 0
    back = restored(quantized(rows), 33)
    assert ((back - rows).abs() <= rows.abs().amax(1, keepdim=True) * (0.5 / 127) * (1 + 2.0**-7)).all()
    assert torch.equal(restored(quantized(rows[3:9]), 33), back[3:9])
    assert not back[7].any()


def test_the_smallest_rows_are_zeros_and_none_is_lost():
    rows = torch.tensor([[1e-38, -1e-40], [3e38, -3e38]])
    back = restored(quantized(rows), 2)
    assert not back[0].any()
    torch.testing.assert_close(back[1], rows[1], rtol=0.5 / 127, atol=0)
    assert quantized(torch.empty(0, 5)).shape == (0, 5 + SCALE)


def test_scales_are_rounded_up_so_that_no_level_is_out_of_range():
    rows = torch.linspace(1, 4, 3000)[:, None] * torch.tensor([1.0, -0.5])
    found = quantized(rows)
    scales = found[:, -SCALE:].contiguous().view(torch.bfloat16).float()[:, 0]
    assert (scales >= rows[:, 0] / 127).all()
    assert (scales <= rows[:, 0] / 127 * (1 + 2.0**-7)).all()
    assert found[:, 0].min() >= 126


def test_what_is_no_number_stays_none():
    rows = torch.tensor([[float("nan"), 1.0], [float("inf"), 1.0]])
    rows.view(torch.int32)[0, 0] = 0x7FFFFFFF
    assert restored(quantized(rows), 2)[0].isnan().all()
    assert not restored(quantized(rows), 2)[1].isfinite().all()


def test_parts_of_a_row_have_scales_of_their_own():
    """Large numbers of one head do not cost another one its levels; stored rows have a scale for each 64 channels."""
    rows = noise(50, 4 * PART)
    rows[:, :PART] *= 1000
    whole, parts = (restored(quantized(rows, n), 4 * PART)[:, PART:] for n in (1, 4))
    assert error(parts, rows[:, PART:]) < 0.01
    assert error(whole, rows[:, PART:]) > 0.5
    assert torch.equal(parts, restored(quantized(rows[:, PART:], 3), 3 * PART))
    assert [columns_of(n, torch.int8) - n for n in (PART, 4 * PART, PART + 16)] == [SCALE, 4 * SCALE, SCALE]
    assert columns_of(4 * PART, torch.float32) == 4 * PART
    assert Store(None, None, "auto").stored(torch.float32, rows) == torch.int8


def test_rows_for_products_take_the_levels_of_the_side_that_they_are_on():
    rows = torch.nn.functional.silu(noise(50, 33)) * torch.logspace(-20, 20, 50)[:, None]
    rows[7], rows[8] = 0, rows[8].abs()
    found = spread(rows)
    back = spread_values(found)
    width = rows.amax(1, keepdim=True).clamp(min=0) - rows.amin(1, keepdim=True).clamp(max=0)
    assert ((back - rows).abs() <= width * (0.5 / STEPS) * (1 + 1e-4)).all()
    assert not back[7].any()
    assert found[8, -1] == -128
    assert found.shape == (50, 33 + ENDS)
    assert torch.equal(spread(rows[3:9]), found[3:9])


@pytest.mark.parametrize("name", ["ddpm-256", "sd15-unet"])
def test_updates_from_int8_rows_are_near_those_from_float32(name):
    net, made = compiled(name, EXACT), case(name)
    exact, small = (Snapshot.of(record(net, made)[1], Store(None, None, kind)) for kind in ("fp32", "int8"))
    assert small.nbytes < 0.55 * exact.nbytes  # tiny networks have narrow rows
    for mask, edited in edits(made, 8, seed=3):
        found = []
        for snapshot in (exact, small):
            restored_ = snapshot.recording()
            found.append(update(net, restored_, mask, edited))
            found.append(restored_.snapshot)
        wanted, exact, result, small = found
        assert (result - wanted).norm() <= 0.03 * wanted.norm()
    for value, dtype in small.types.items():
        assert (dtype == torch.int8) == (value.channels >= FEWEST)
        assert all(layer.rows(value).dtype == dtype for layer in small.holders(value))


def test_auto_takes_int8_where_the_error_is_small():
    even, spiked = noise(64, 64), noise(64, 64)
    spiked[:, 0] = 1000.0
    store = Store(None, None, "auto")
    assert store.stored(torch.float32, even) == torch.int8
    assert store.stored(torch.float32, spiked) == torch.bfloat16
    assert store.stored(torch.bfloat16, spiked.bfloat16()) == torch.bfloat16
    assert store.stored(torch.float32, even[:, : FEWEST - 1]) == torch.float32
    assert Store(None, None, "int8").stored(torch.bfloat16, spiked.bfloat16()) == torch.int8


def test_int8_layers_are_files_and_come_back(tmp_path):
    net, made = compiled("ddpm-256", EXACT), case("ddpm-256")
    snapshot = Snapshot.of(record(net, made)[1], Store(None, None, "int8"), tmp_path / "base.safetensors")
    again = layer_of(net, read(tmp_path / "base.safetensors"))
    for value, table in snapshot.layers[0].tables.items():
        assert table is again.tables[value]
        assert torch.equal(snapshot.layers[0].rows(value), again.rows(value))
