"""Columns, the tables made of them, figures, and files."""

import json
from io import StringIO

import pytest
from rich.console import Console

from retouch.bench.report import (
    Column,
    FileError,
    check_writable,
    column_table,
    decibels,
    figure,
    giga,
    row_of,
    size_text,
    terminal_table,
    times,
    write_json,
    write_text,
)

COLUMNS = [
    Column("name", "network"),
    Column("", "name, kind", value=lambda row: f"{row['name']}, {row['kind']}", below=True),
    Column("slow"),
    Column("ratio", "speed-\nup", times, lambda row: row["slow"] / row["quick"]),
    Column("flag", "odd", lambda flag: "changed!" if flag else "", below=True),
    Column("", "published", figure, lambda row: 4.0, wide=True),
]
FOUND = {"name": "a", "kind": "b", "slow": 6.0, "quick": 2.0, "flag": False}


def printed(table):
    text = StringIO()
    Console(file=text, width=80).print(table)
    return text.getvalue()


def test_rows_hold_what_was_found_and_what_columns_derive():
    row = row_of(COLUMNS, FOUND)
    assert row == {**FOUND, "ratio": 3.0}
    assert json.loads(json.dumps(row)) == row
    assert row_of(COLUMNS, row) == row


def test_a_terminal_has_columns_below_others_and_no_wide_ones():
    shown = printed(terminal_table("Title", COLUMNS, [row_of(COLUMNS, FOUND)], "caption"))
    lines = [line.strip() for line in shown.splitlines()]
    assert lines[0] == "Title"
    assert "a, b" in lines
    assert any(line.split() == ["a", "3.0x"] for line in lines)
    assert "published" not in shown
    assert "slow" not in shown
    assert lines[-1] == "caption"


def test_columns_without_anything_to_show_are_left_out():
    plain, odd = (row_of(COLUMNS, {**FOUND, "flag": flag}) for flag in (False, True))
    assert "odd" not in printed(terminal_table("", COLUMNS, [plain]))
    shown = printed(terminal_table("", COLUMNS, [plain, odd]))
    assert "odd" in shown
    assert "changed!" in shown
    assert "odd" not in column_table(COLUMNS, [plain])


def test_markdown_has_all_columns_beside_each_other():
    assert column_table(COLUMNS, [row_of(COLUMNS, {**FOUND, "flag": True})]) == (
        "| network | name, kind | speed-up | odd | published |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| a | a, b | 3.0x | changed! | 4.0 |"
    )


def test_figures():
    assert [figure(x) for x in (None, 0.04, 99.94, 123.4)] == ["-", "0.0", "99.9", "123"]
    assert figure(2.0, " ms") == "2.0 ms"
    assert (times(None), times(22.83)) == ("-", "22.8x")
    assert (giga(8158366720), giga(248508317696)) == ("8.16", "249")
    assert (size_text(588644352), size_text(1957822464)) == ("589 MB", "1.96 GB")
    assert (decibels(None), decibels(40.04)) == ("equal", "40.0")


def test_files_that_can_be_written_are_not_left_behind_nor_changed(tmp_path):
    check_writable(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").write_text("kept")
    check_writable(tmp_path / "old")
    assert (tmp_path / "old").read_text() == "kept"


def test_files_that_cannot_be_written_are_named(tmp_path):
    path = tmp_path / "missing" / "x.json"
    for write in (check_writable, lambda path: write_text(path, ""), lambda path: write_json(path, [])):
        with pytest.raises(FileError, match=r"cannot write .*x\.json: No such file"):
            write(path)
