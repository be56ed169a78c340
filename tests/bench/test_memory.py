"""Peaks of resident memory."""

import gc
import mmap
import sys

import numpy as np
import pytest

from retouch.bench.memory import Resident, resident

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
SIZE = 64 << 20


def test_memory_taken_inside_counts_though_it_was_given_back():
    gc.collect()  # what other tests left may be given back in between
    anon, _ = resident()
    with Resident() as memory:
        taken = np.ones(4 * SIZE, np.uint8)
        memory._look()
        del taken
    assert memory.peak_anon - anon > 3 * SIZE


def test_mapped_files_count_apart(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(SIZE))
    anon, file = resident()
    with Resident() as memory, path.open("rb") as opened:
        mapping = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        assert not any(mapping[:: mmap.PAGESIZE])
        memory._look()
        mapping.close()
    assert memory.peak_file - file > 0.9 * SIZE
    assert memory.peak_anon - anon < 0.5 * SIZE


def test_nothing_is_known_without_proc(monkeypatch, tmp_path):
    monkeypatch.setattr("retouch.bench.memory.STATUS", tmp_path / "missing")
    assert resident() == (0, 0)
