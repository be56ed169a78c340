"""Layouts against real tensors: views and permutations that rows can follow give the same tensor."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retouch.ir.geometry import Grid
from retouch.ir.layout import Atom, LayoutError, Ref, axis, image, like, merge, regrid, split
from retouch.ir.value import Value

SIZES = st.sampled_from([1, 2, 3, 4, 6, 8])


def _value(batch, channels, height, width):
    shape = (batch, channels, height, width)
    return Value("x", shape, torch.float32, Grid(height, width), batch, channels)


def _rows(value):
    return torch.arange(value.rows * value.channels, dtype=torch.float32).view(value.rows, -1)


def _image_of(value, rows):
    """The image by PyTorch's own means."""
    grid = value.grid
    return rows.view(value.batch, grid.height, grid.width, -1).permute(0, 3, 1, 2)


@st.composite
def _shapes(draw, total):
    """Sizes with a given product."""
    sizes, left = [], total
    for _ in range(draw(st.integers(0, 4))):
        divisors = [d for d in range(1, left + 1) if left % d == 0]
        size = draw(st.sampled_from(divisors))
        sizes.append(size)
        left //= size
    return (*sizes, left)


@given(SIZES, SIZES, SIZES, SIZES, st.data())
def test_chains_of_views_and_permutations(batch, channels, height, width, data):
    value = _value(batch, channels, height, width)
    rows = _rows(value)
    ref, tensor = image(value), _image_of(value, rows)
    for _ in range(data.draw(st.integers(0, 5))):
        if data.draw(st.booleans()):
            order = data.draw(st.permutations(range(tensor.dim())))
            ref, tensor = ref.permute(order), tensor.permute(order)
        else:
            shape = data.draw(_shapes(tensor.numel()))
            try:
                ref = ref.view(shape)
            except LayoutError:
                continue
            tensor = tensor.reshape(shape)
        assert ref.shape == tensor.shape
    assert torch.equal(ref.tensor(rows), tensor)
    assert torch.equal(ref.rows(tensor), rows)
    assert ref.rows(tensor).is_contiguous()


@given(SIZES, SIZES, st.integers(0, 3))
def test_columns_of_wider_rows(channels, height, start):
    """Rows may be some columns of a wider matrix."""
    value = _value(2, channels, height, 3)
    wide = torch.arange(value.rows * (channels + 4), dtype=torch.float32).view(value.rows, -1)
    part = wide[:, start : start + channels]
    assert torch.equal(image(value).tensor(part), _image_of(value, part.contiguous()))


@given(SIZES, SIZES)
def test_views_cut_in_pieces_that_fit(channels, factor):
    value = _value(2, channels * factor, 4, 6)
    tokens = image(value).view((2, -1, 24)).permute((0, 2, 1))
    heads = tokens.view((2, 24, factor, channels)).permute((0, 2, 1, 3))
    expected = _image_of(value, _rows(value)).flatten(2).transpose(1, 2)
    assert torch.equal(heads.tensor(_rows(value)), expected.view(2, 24, factor, channels).transpose(1, 2))


def test_views_that_rows_cannot_express():
    ref = image(_value(2, 6, 4, 5))
    with pytest.raises(LayoutError, match="cuts"):
        ref.view((2, 4, 30, 1))
    with pytest.raises(LayoutError, match="number of elements"):
        ref.view((2, 6, 4))
    with pytest.raises(LayoutError, match="number of elements"):
        ref.view((2, 6, 4, 5, 2))


def test_minus_one_is_what_is_left():
    assert image(_value(2, 6, 4, 5)).view((2, -1, 20)).shape == (2, 6, 20)
    assert image(_value(2, 6, 4, 5)).view((-1,)).shape == (240,)


def test_axes_of_one_position_have_no_atom():
    assert axis("c", 1) == ()
    assert image(_value(1, 1, 1, 4)).dims == ((), (), (), (Atom("w", 1, 4),))


def test_merge_joins_runs_of_one_axis_only():
    parts = (Atom("c", 4, 2), Atom("c", 1, 4))
    assert merge(parts) == (Atom("c", 1, 8),)
    assert merge(parts[::-1]) == parts[::-1]
    assert merge((Atom("h", 1, 2), Atom("w", 1, 4))) == (Atom("h", 1, 2), Atom("w", 1, 4))


@given(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=4), st.data())
def test_split_and_merge_are_inverse(sizes, data):
    whole = (Atom("c", 1, math.prod(sizes)),) if math.prod(sizes) > 1 else ()
    dims = split(whole, sizes)
    assert merge([a for d in dims for a in d]) == whole


def test_kinds_of_layouts():
    value = _value(2, 8, 4, 5)
    ref = image(value)
    assert ref.is_image
    assert not ref.permute((0, 1, 3, 2)).is_image
    tokens = ref.view((2, 8, 20)).permute((0, 2, 1))
    assert (tokens.spatial_dims(), tokens.channel_dims()) == ([1], [2])
    heads = tokens.view((2, 20, 2, 4)).permute((0, 2, 1, 3))
    assert (heads.spatial_dims(), heads.channel_dims()) == ([2], [1, 3])


def test_like_takes_the_arrangement():
    tokens = image(_value(2, 8, 4, 5)).view((2, 8, 20)).permute((0, 2, 1))
    wider = like(tokens, _value(2, 3, 4, 5))
    assert wider.shape == (2, 20, 3)
    assert isinstance(wider, Ref)


def test_regrid_takes_the_arrangement_of_another_grid():
    old, new, thin = _value(2, 8, 4, 5), _value(2, 8, 3, 7), _value(2, 8, 1, 5)
    last = image(old).permute((0, 2, 3, 1))
    assert regrid(last, new).shape == (2, 3, 7, 8)
    assert regrid(last.view((2, 20, 8)), new).shape == (2, 21, 8)
    assert regrid(last, thin).shape == (2, 1, 5, 8)
    with pytest.raises(LayoutError, match="not whole"):
        regrid(last.view((2, 2, 2, 5, 8)), new)
    with pytest.raises(LayoutError, match="place of a new dimension"):
        regrid(image(thin).permute((0, 2, 3, 1)), new)
    assert regrid(image(thin), new).is_image
