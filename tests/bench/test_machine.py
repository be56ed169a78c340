"""Peaks of resident memory, and what a figure belongs to."""

import mmap
import sys

import numpy as np
import pytest

from retouch.bench import machine
from retouch.bench.machine import PeakMemory, give_back
from retouch.models.extras import ExtraError

SIZE = 64 << 20
linux = pytest.mark.skipif(sys.platform != "linux", reason="only there files are told apart")


def now():
    """Anonymous memory and files at the moment."""
    give_back()  # what other tests left, or it would be given back in between
    memory = PeakMemory()
    memory.look()
    return memory


def test_memory_taken_inside_counts_though_it_was_given_back():
    before = now()
    with PeakMemory() as memory:
        taken = np.ones(4 * SIZE, np.uint8)
        memory.look()
        del taken
    assert memory.anon - before.anon > 3 * SIZE
    assert memory.rss - before.rss > 3 * SIZE


def test_the_thread_sees_what_nobody_looks_at(monkeypatch):
    monkeypatch.setattr(machine, "INTERVAL", 0.001)
    before = now()
    with PeakMemory() as memory:
        for _ in range(8):
            np.ones(2 * SIZE, np.uint8)
    assert memory.anon - before.anon > SIZE


@linux
def test_mapped_files_count_apart(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(SIZE))
    before = now()
    with PeakMemory() as memory, path.open("rb") as opened:
        mapping = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        assert not any(mapping[:: mmap.PAGESIZE])
        memory.look()
        mapping.close()
    assert memory.file - before.file > 0.9 * SIZE
    assert memory.anon - before.anon < 0.5 * SIZE


def test_a_missing_psutil_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(ExtraError, match=r"'psutil'.*pip install 'retouch\[bench\]'"):
        PeakMemory()


def test_facts_are_those_of_benchmarks():
    found = machine.facts()
    assert set(found) == {
        "cpu", "gpu", "isa", "torch_isa", "threads", "load_average", "torch", "retouch", "python", "system", "commit",
    }  # fmt: skip
    assert found["gpu"] is None
    assert found["threads"] >= 1
