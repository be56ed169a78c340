"""The plan: which values a recording keeps."""

import torch
import torch.nn.functional as F
from torch import nn

from retouch.frontend.capture import capture
from retouch.frontend.lowering import lower
from retouch.ir.geometry import Grid
from retouch.passes import fuse, plan
from support import around, noise


def _plan(function, parts=None, whole=(), keep_moments=True, keep_all=False):
    module = around(function, parts)
    program = fuse(lower(capture(module, (noise(1, 3, 16, 12),), {})))
    return plan(program, frozenset(whole), keep_moments, keep_all)


def _conv():
    return {"conv": nn.Conv2d(8, 8, 3, padding=1), "point": nn.Conv2d(8, 8, 1)}


def _norm():
    return {**_conv(), "norm": nn.GroupNorm(2, 8)}


def _storage(made):
    return {v.name: s for v, s in made.storage.items()}


def test_inputs_and_outputs_are_kept():
    assert _storage(_plan(lambda m, x: F.silu(x))) == {"x": "kept", "silu": "kept"}


def test_what_a_convolution_reads_as_a_halo_is_kept():
    made = _storage(_plan(lambda m, x: m.conv(x), _conv))
    assert made["conv2d"] == "kept"
    made = _storage(_plan(lambda m, x: m.point(x), _conv))
    assert made["conv2d"] == "transient"


def test_halos_on_whole_grids_are_not_kept():
    made = _plan(lambda m, x: m.conv(x), _conv, whole=[Grid(16, 12)])
    assert _storage(made)["conv2d"] == "transient"
    assert {v.name for v in made.kept} == {"x", "conv2d_1"}


def test_a_map_read_by_a_convolution_is_evaluated_there():
    made = _plan(lambda m, x: m.conv(F.silu(m.norm(x))), _norm)
    assert sorted(_storage(made).values()) == ["kept", "kept", "kept", "virtual"]


def test_normalised_values_are_kept_only_to_refresh_statistics():
    def function(m, x):
        return m.point(F.silu(m.norm(x)))

    assert _storage(_plan(function, _norm))["conv2d"] == "kept"
    assert _storage(_plan(function, _norm, keep_moments=False))["conv2d"] == "transient"


def test_keys_and_values_are_kept_and_queries_are_not():
    def function(m, x):
        q, k, v = ((m.point(x) + i).flatten(2).mT for i in range(3))
        return F.scaled_dot_product_attention(q, k, v).mT.view_as(x)

    made = _plan(function, _conv)
    attention = made.program.ops[-1]
    queries, *others = attention.operands()
    assert [made.storage[v] for v, how in others if how == "all"] == ["kept", "kept"]
    assert made.storage[queries[0]] in ("transient", "virtual")


def test_exact_keeps_what_is_read_on_other_rows():
    made = _storage(_plan(lambda m, x: m.point(x) + x, _conv, keep_all=True))
    assert made["conv2d"] == "kept"


def test_slices_live_in_what_they_are_cut_from():
    made = _plan(lambda m, x: x[:, 2:5])
    (output,) = made.program.outputs
    value, start, channels = made.place(output.value)
    assert (value.name, start, channels) == ("conv2d", 2, 3)
    assert made.storage[value] == "kept"
    assert made.place(value) == (value, 0, 8)


def test_operands_of_dense_operations_are_kept():
    made = _storage(_plan(lambda m, x: F.silu(x).roll(1, 2)))
    assert made["silu"] == made["roll"] == "kept"


def test_kept_bytes():
    made = _plan(lambda m, x: m.conv(torch.relu(x)), _conv)
    assert made.kept_bytes == 4 * 16 * 12 * (3 + 8 + 8)
