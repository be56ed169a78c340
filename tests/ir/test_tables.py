"""Lists of rows and the tables derived from them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retouch.ir.geometry import AxisMap, Geometry, Grid, conv_geometry
from retouch.ir.tables import Table, Tables

GRID = Grid(5, 4)


@st.composite
def _rows(draw, total=40):
    rows = draw(st.sets(st.integers(0, total - 1)))
    return Table(np.array(sorted(rows), dtype=np.int32), total, ascending=True)


@st.composite
def _named(draw, total=40):
    """A table that names rows in any order, some more than once, and zeros."""
    shape = (draw(st.integers(0, 9)), draw(st.integers(1, 4)))
    flat = draw(st.lists(st.integers(-1, total - 1), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    return Table(np.array(flat, dtype=np.int32).reshape(shape), total)


@given(_named())
def test_unique_rows_and_their_positions(table):
    rows, positions = Tables().unique(table)
    assert rows.ascending
    assert rows.array.tolist() == sorted(set(table.array.reshape(-1).tolist()) - {-1})
    back = np.append(rows.array, -1)[positions.array]
    assert np.array_equal(back, table.array)


@given(_rows())
def test_an_ascending_list_is_its_own(table):
    rows, positions = Tables().unique(table)
    assert rows is table
    assert positions is None


@given(_rows(), st.data())
def test_positions_in_a_list(rows, data):
    chosen = data.draw(st.lists(st.sampled_from([-1, *rows.array.tolist()]), max_size=9))
    table = Table(np.array(chosen, dtype=np.int32), 40)
    found = Tables().positions(table, rows)
    assert np.array_equal(np.append(rows.array, -1)[found.array], table.array)


def test_rows_that_were_not_computed():
    rows = Table(np.array([1, 3], dtype=np.int32), 10, ascending=True)
    with pytest.raises(ValueError, match="rows are read that were not computed"):
        Tables().positions(Table(np.array([1, 2], dtype=np.int32), 10), rows)


@given(_rows(), st.integers(0, 39))
def test_tiles_hold_every_row_once(rows, probe):
    if len(rows) and probe not in rows.array:
        listed, grid = rows.mask(GRID), np.zeros(40, np.bool_)
        grid[probe] = True
        rows = Table.with_probes(listed, grid.reshape(listed.shape), 2)
    tiles = Tables().tiles(rows, GRID)
    assert (tiles.total, tiles.array.shape[1]) == (len(rows), 4)
    assert sorted(tiles.array[tiles.array >= 0].tolist()) == list(range(len(rows)))
    shared = rows.tiles(GRID).shared
    assert all(np.count_nonzero(tile >= 0) > 1 for tile in tiles.array[:shared])
    assert all(np.count_nonzero(tile >= 0) == 1 for tile in tiles.array[shared:])
    for tile in tiles.array[:shared]:
        sample, y, x = np.unravel_index(rows.array[tile], (2, GRID.height, GRID.width))
        here = tile >= 0
        assert len(set(sample[here])) == 1
        assert len({*(y - np.array([0, 0, 1, 1]))[here]}) == len({*(x - np.array([0, 1, 0, 1]))[here]}) == 1


@pytest.mark.parametrize("corner", [(0, 0), (1, 0), (0, 1), (3, 5)])
def test_tiles_begin_where_each_map_is_edited(corner):
    grid, mask = Grid(9, 12), np.zeros((2, 9, 12), np.bool_)
    mask[0, corner[0] : corner[0] + 4, corner[1] : corner[1] + 6] = True
    mask[1, 2:6, 3:9] = True
    probes = np.zeros_like(mask)
    probes[:, 8, 11] = True
    rows = Table.with_probes(mask, probes, 2)
    tiles = rows.tiles(grid)
    assert np.count_nonzero(tiles.array >= 0, axis=1).tolist() == [4] * 12 + [1] * 2
    assert (tiles.shared, tiles.alone) == (12, 2)
    assert rows.tiles(grid) is tiles


@pytest.mark.parametrize(("height", "width", "shared"), [
    (2, 2, 0), (3, 3, 0), (3, 5, 0), (4, 4, 4), (5, 5, 8), (4, 6, 6), (1, 40, 0), (2, 12, 6),
])  # fmt: skip
def test_rows_of_few_or_empty_tiles_are_alone(height, width, shared):
    """In each map by itself: tiles of another one, which is computed with it, change nothing."""
    grid, mask = Grid(20, 41), np.zeros((2, 20, 41), np.bool_)
    mask[0, :height, :width] = mask[1, 3:15, 7:19] = True
    tiles = Table.of_mask(mask, 2).tiles(grid)
    alone = height * width - np.count_nonzero(tiles.array[:shared] >= 0)
    assert (tiles.shared, tiles.alone) == (36 + shared, alone)
    assert Table.of_mask(mask[:1], 1).tiles(grid).shared == shared


def test_tiles_are_those_of_a_grid():
    rows = Table.all(64)
    for grid in (Grid(8, 8), Grid(4, 16), Grid(4, 8), Grid(16, 4)):
        tiles = rows.tiles(grid)
        assert (len(tiles.array), tiles.shared) == (16, 16)
        assert (tiles.array[:, 2] - tiles.array[:, 0]).tolist() == [grid.width] * 16


@given(_rows())
def test_samples_and_bounds(rows):
    tables = Tables()
    bounds, samples = tables.bounds(rows, 20).array, tables.samples(rows, 20).array
    for sample in (0, 1):
        part = rows.array[bounds[sample] : bounds[sample + 1]]
        assert part.tolist() == [r for r in rows.array if r // 20 == sample]
        assert (samples[bounds[sample] : bounds[sample + 1]] == sample).all()
    assert tables.samples(rows, 40) is None


@given(_rows())
def test_taps_are_those_of_the_geometry(rows):
    tables = Tables()
    geometry = conv_geometry(GRID, (3, 3), (1, 1), (1, 1), (1, 1))
    found = tables.taps(geometry, rows)
    assert np.array_equal(found.array, geometry.rows(rows.array))
    assert tables.taps(geometry, rows) is found
    assert found.total == rows.total


@given(_named())
def test_moved_rows(table):
    grid = Geometry(AxisMap.pad(5, 0, 0, "reflect"), AxisMap.pad(3, 1, 0, "constant"))
    found = Tables().moved(grid, table).array
    for before, after in zip(table.array.reshape(-1), found.reshape(-1), strict=True):
        y, x = divmod(int(before) % 20, 4)
        expected = -1 if before < 0 or x == 0 else int(before) // 20 * 15 + y * 3 + x - 1
        assert after == expected


@given(st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_of_mask(batch, seed):
    mask = np.random.default_rng(seed).random((1, 5, 4)) < 0.3
    table = Table.of_mask(mask, batch)
    assert table.total == batch * 20
    assert np.array_equal(table.array, np.flatnonzero(np.repeat(mask, batch, 0)))
    assert table.complete == mask.all()
    assert not table.full


def test_tables_of_different_lists_of_the_same_length_are_apart():
    """Identity is the key; lists that are gone must not lend theirs to new ones."""
    tables = Tables()
    geometry = Geometry.identity(GRID)
    for i in range(50):
        rows = Table(np.array([i % 20], dtype=np.int32), 20, ascending=True)
        assert tables.taps(geometry, rows).array.tolist() == [i % 20]
