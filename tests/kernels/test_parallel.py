"""The pool of threads that kernels share."""

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from retouch.kernels import cpu

ROWS, CHANNELS = 4096, 64


@pytest.fixture
def threads():
    before = cpu.num_threads()
    yield cpu.set_num_threads
    cpu.set_num_threads(before)


def copied(seed):
    """Rows in another order, by the kernel, and whether they are those."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(ROWS, CHANNELS, generator=generator)
    order = torch.randperm(ROWS, generator=generator).int()
    out = torch.zeros_like(rows)
    cpu.copy_rows(cpu.Rows(out), None, cpu.Rows(rows), cpu.Index(order))
    return torch.equal(out, rows[order.long()])


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_any_number_of_threads(threads, count):
    for seed in range(20):
        threads(1 + (seed * count) % 8)
        assert copied(seed)


def test_calls_of_several_threads_at_once(threads):
    threads(4)
    with ThreadPoolExecutor(6) as callers:
        assert all(callers.map(copied, range(300)))


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own(threads):
    threads(3)
    assert copied(0)
    child = os.fork()
    if not child:
        signal.alarm(20)
        os._exit(0 if all(map(copied, range(10))) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert copied(1)


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="reads /proc")
def test_threads_are_started_once(threads):
    threads(12)
    assert copied(0)
    before = os.listdir("/proc/self/task")
    assert len(before) >= 12
    assert all(map(copied, range(20)))
    assert len(os.listdir("/proc/self/task")) == len(before)
