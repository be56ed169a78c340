"""Where rows are of which several tables hold some: as a search of every table finds them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retouch.ir.tables import Table
from retouch.runtime.state import lookup
from retouch.runtime.state.lookup import Lookups

TOTAL = 40
rows = st.sets(st.integers(0, TOTAL - 1)).map(lambda found: Table(np.array(sorted(found), np.int32), TOTAL, True))
WHOLE = Table.all(TOTAL)


@given(rows, st.lists(rows, max_size=5))
def test_rows_are_read_of_the_newest_table_that_holds_them(wanted, newer):
    tables, lookups = (*newer, WHOLE), Lookups()
    numbers, places = lookups.held(wanted, tables)
    for row, number, place in zip(wanted.array.tolist(), numbers, places, strict=True):
        assert number == next(n for n, table in enumerate(tables) if row in table.array)
        assert tables[number].array[place] == row
    assert lookups.rows(tables).tolist() == list(range(TOTAL))


def test_rows_that_no_table_holds_are_a_defect():
    few = Table(np.array([3], np.int32), TOTAL, True)
    with pytest.raises(AssertionError, match="no layer holds"):
        Lookups().held(Table(np.array([3, 4], np.int32), TOTAL, True), (few,))
    assert Lookups().rows((few,)).tolist() == [3]


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(lookup, "REMEMBERED", 1000)
    lookups, wanted = Lookups(), Table(np.array([3], np.int32), TOTAL, True)
    tables = (WHOLE,)
    for _ in range(20):
        tables = (Table(np.array([5], np.int32), TOTAL, True), *tables)
        lookups.held(wanted, tables)
        assert lookups._nbytes <= 1000
        assert lookups._nbytes == sum(each.nbytes for each in lookups._known.values())
