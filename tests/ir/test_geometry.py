"""Axis maps and geometries against PyTorch's own operations on images of indices."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st

from retouch.ir.geometry import AxisMap, Geometry, Grid, conv_geometry

SIZES = st.integers(1, 24)


def _indices(size):
    """1 to size, so that a padded zero stands out."""
    return torch.arange(1, size + 1, dtype=torch.float64)


def _taps(axis, kernel_index):
    return torch.from_numpy(axis.table[:, kernel_index] + 1).double()


@given(SIZES, st.integers(1, 5), st.integers(1, 4), st.integers(0, 5), st.integers(1, 3))
def test_conv_reads_what_a_convolution_reads(size, kernel, stride, padding, dilation):
    assume(size + 2 * padding >= dilation * (kernel - 1) + 1)
    axis = AxisMap.conv(size, kernel, stride, padding, padding, dilation)
    for tap in range(kernel):
        weight = torch.zeros(1, 1, kernel, dtype=torch.float64)
        weight[0, 0, tap] = 1
        expected = F.conv1d(
            _indices(size)[None, None], weight, None, stride, padding, dilation
        )[0, 0]  # fmt: skip
        assert torch.equal(_taps(axis, tap), expected)


@given(
    SIZES, st.integers(1, 5), st.integers(1, 4), st.integers(0, 4), st.integers(0, 3),
    st.integers(1, 3),
)  # fmt: skip
def test_conv_transpose_reads_what_one_reads(size, kernel, stride, padding, extra, dilation):
    assume(extra < max(stride, dilation))
    assume((size - 1) * stride - 2 * padding + dilation * (kernel - 1) + extra + 1 > 0)
    axis = AxisMap.conv_transpose(size, kernel, stride, padding, extra, dilation)
    for tap in range(kernel):
        weight = torch.zeros(1, 1, kernel, dtype=torch.float64)
        weight[0, 0, tap] = 1
        expected = F.conv_transpose1d(_indices(size)[None, None], weight, None, stride, padding, extra, 1, dilation)[
            0, 0
        ]
        assert torch.equal(_taps(axis, tap), expected)


@given(SIZES, st.integers(-6, 8), st.integers(-6, 8), st.sampled_from(
    ["constant", "reflect", "replicate", "circular"]
))  # fmt: skip
def test_pad_reads_what_padding_reads(size, before, after, mode):
    assume(size + before + after > 0)
    if mode == "reflect":
        assume(max(before, after) < size)
    if mode == "circular":
        assume(max(before, after) <= size)
    image = _indices(size)[None, None]
    try:
        expected = F.pad(image, (before, after), mode)[0, 0]
    except RuntimeError:
        return
    if mode == "circular" and min(before, after) < 0:
        return  # PyTorch crops after wrapping, in an order of its own; not what is exported
    axis = AxisMap.pad(size, before, after, mode)
    assert torch.equal(_taps(axis, 0), expected)


@given(SIZES, st.integers(-30, 30), st.integers(1, 4))
def test_rolls_and_repetitions_read_what_pytorch_reads(size, shift, count):
    image = _indices(size)
    assert torch.equal(_taps(AxisMap.roll(size, shift), 0), image.roll(shift))
    assert torch.equal(_taps(AxisMap.repeat(size, count), 0), image.repeat_interleave(count))
    assert torch.equal(_taps(AxisMap.tile(size, count), 0), image.repeat(count))


def test_unknown_padding():
    with pytest.raises(ValueError, match="unknown padding mode 'mirror'"):
        AxisMap.pad(4, 1, 1, "mirror")


@given(st.integers(1, 200), st.integers(1, 200))
def test_nearest_by_size(size, outputs):
    expected = F.interpolate(_indices(size).float()[None, None], size=outputs)[0, 0]
    assert torch.equal(_taps(AxisMap.nearest(size, outputs, None), 0).float(), expected)


@given(st.integers(1, 200), st.floats(0.05, 8))
def test_nearest_by_scale(size, scale):
    assume(int(size * scale) > 0)
    expected = F.interpolate(_indices(size).float()[None, None], scale_factor=scale)[0, 0]
    axis = AxisMap.nearest(size, len(expected), scale)
    assert torch.equal(_taps(axis, 0).float(), expected)


@given(st.integers(1, 64), st.integers(1, 24))
def test_nearest_by_a_whole_factor_repeats(size, factor):
    axis = AxisMap.nearest(size, size * factor, None)
    assert axis.table[:, 0].tolist() == [i // factor for i in range(size * factor)]


@given(SIZES, st.data())
def test_slice_and_flip(size, data):
    start = data.draw(st.integers(0, size - 1))
    stop = data.draw(st.integers(start + 1, size))
    step = data.draw(st.integers(1, 4))
    expected = _indices(size)[start:stop:step]
    assert torch.equal(_taps(AxisMap.slice(size, start, stop, step), 0), expected)
    assert torch.equal(_taps(AxisMap.flip(size), 0), _indices(size).flip(0))


@st.composite
def _one_tap(draw, size):
    """A map with one tap from `size` positions."""
    kind = draw(st.sampled_from(["pad", "nearest", "flip", "slice"]))
    if kind == "pad":
        mode = draw(st.sampled_from(["constant", "reflect", "replicate"]))
        most = size - 1 if mode == "reflect" else 4
        return AxisMap.pad(size, draw(st.integers(0, most)), draw(st.integers(0, most)), mode)
    if kind == "nearest":
        return AxisMap.nearest(size, draw(st.integers(1, 30)), None)
    if kind == "slice":
        start = draw(st.integers(0, size - 1))
        return AxisMap.slice(size, start, draw(st.integers(start + 1, size)), 1)
    return AxisMap.flip(size)


def _read(axis, values):
    """`values` `[inputs]` through the taps, zeros where there is none: `[outputs, taps]`."""
    return np.append(values, 0)[axis.table]


@given(st.data())
def test_after_is_one_map_after_the_other(data):
    size = data.draw(SIZES)
    first = data.draw(_one_tap(size))
    kernel = data.draw(st.integers(1, 4))
    assume(first.outputs + 2 >= kernel)
    second = AxisMap.conv(first.outputs, kernel, data.draw(st.integers(1, 3)), 1, 1, 1)
    values = np.arange(1, size + 1)
    both = second.after(first)
    assert (both.inputs, both.outputs, both.taps) == (size, second.outputs, kernel)
    assert np.array_equal(_read(both, values), _read(second, _read(first, values)[:, 0]))


def test_after_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="cannot compose"):
        AxisMap.identity(4).after(AxisMap.identity(5))
    with pytest.raises(ValueError, match="cannot compose"):
        AxisMap.identity(4).after(AxisMap.conv(4, 3, 1, 1, 1, 1))


@pytest.mark.parametrize("table", [[[4]], [[-2]], [1, 2]])
def test_tables_are_checked(table):
    with pytest.raises(ValueError, match="coordinates below 4"):
        AxisMap(table, 4)


def test_maps_are_equal_by_content():
    assert AxisMap.identity(3) == AxisMap.slice(3, 0, 3, 1)
    assert hash(AxisMap.identity(3)) == hash(AxisMap.slice(3, 0, 3, 1))
    assert AxisMap.identity(3) != AxisMap.slice(4, 0, 3, 1)
    assert AxisMap.conv(3, 1, 1, 0, 0, 1) == AxisMap.identity(3)


@st.composite
def _geometries(draw):
    grid = Grid(draw(st.integers(3, 9)), draw(st.integers(3, 9)))
    kernel = [draw(st.integers(1, 3)) for _ in range(2)]
    stride = [draw(st.integers(1, 3)) for _ in range(2)]
    padding = [draw(st.integers(0, 2)) for _ in range(2)]
    return grid, kernel, stride, padding


@given(_geometries(), st.integers(1, 3), st.randoms(use_true_random=False))
def test_rows_are_those_of_a_convolution(made, batch, random):
    grid, kernel, stride, padding = made
    geometry = conv_geometry(grid, kernel, stride, padding, (1, 1))
    image = torch.arange(1, batch * grid.size + 1, dtype=torch.float64)
    image = image.view(batch, 1, grid.height, grid.width)
    unfolded = F.unfold(image, kernel, 1, padding, stride)
    expected = unfolded.transpose(1, 2).reshape(-1, geometry.taps).long() - 1
    assert expected.shape[0] == batch * geometry.outputs.size
    rows = sorted(random.sample(range(len(expected)), max(1, len(expected) // 3)))
    found = geometry.rows(np.array(rows, dtype=np.int32))
    assert found.dtype == np.int32
    assert np.array_equal(found, expected[rows].numpy())


@given(_geometries(), st.integers(1, 2), st.integers(0, 2**32 - 1))
def test_reach_marks_outputs_that_read_a_changed_input(made, batch, seed):
    grid, kernel, stride, padding = made
    geometry = conv_geometry(grid, kernel, stride, padding, (1, 1))
    changed = np.random.default_rng(seed).random((batch, grid.height, grid.width)) < 0.15
    expected = F.max_pool2d(
        F.pad(torch.from_numpy(changed).double()[:, None],
              (padding[1], padding[1], padding[0], padding[0])),
        kernel, stride,
    )[:, 0] > 0  # fmt: skip
    assert np.array_equal(geometry.reach(changed), expected.numpy())


def test_identity_geometry():
    geometry = Geometry.identity(Grid(3, 5))
    assert geometry.is_identity
    assert not Geometry(AxisMap.flip(3), AxisMap.identity(5)).is_identity
    assert np.array_equal(geometry.rows(np.arange(30, dtype=np.int32))[:, 0], np.arange(30))
    assert str(geometry.outputs) == "3x5"


@pytest.mark.parametrize(("axis", "slides"), [
    (AxisMap.conv(9, 3, 1, 1, 1, 1), True), (AxisMap.conv(9, 3, 1, 0, 0, 1), True),
    (AxisMap.conv(9, 5, 1, 2, 2, 1), True),
    (AxisMap.conv(12, 3, 1, 1, 1, 1).after(AxisMap.nearest(6, 12, None)), True),
    (AxisMap.conv(11, 3, 1, 0, 0, 1).after(AxisMap.pad(9, 1, 1, "reflect")), True),
    (AxisMap.conv(9, 3, 2, 1, 1, 1), False), (AxisMap.conv(9, 3, 1, 2, 2, 2), False),
    (AxisMap.conv(9, 3, 1, 1, 1, 1).after(AxisMap.flip(9)), True), (AxisMap.conv_transpose(5, 3, 1, 1, 0, 1), False),
])  # fmt: skip
def test_whether_taps_slide(axis, slides):
    assert axis.slides is slides
