"""Rows that come from the host's memory: gathered, copied beside the kernels, waited for."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retouch.kernels.transfers import Transfers
from support import noise

CPU = torch.device("cpu")
PARTS = st.lists(
    st.tuples(
        st.integers(1, 9),
        st.integers(1, 5),
        st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
        st.none() | st.lists(st.integers(0, 10**6), max_size=12),
    ),
    max_size=6,
)


@given(PARTS)
def test_rows_arrive_as_they_are(parts):
    given_, wanted = [], []
    for number, (rows, channels, dtype, index) in enumerate(parts):
        matrix = noise(rows, channels, seed=number).to(dtype)
        index = None if index is None else np.array([i % rows for i in index], np.int32)
        given_.append((matrix, index))
        wanted.append(matrix if index is None else matrix[torch.from_numpy(index).long()])
    transfers = Transfers(CPU)
    arrived = transfers.arrived(transfers.send(given_))
    assert len(arrived) == len(wanted)
    assert all(a.dtype == w.dtype and torch.equal(a, w) for a, w in zip(arrived, wanted, strict=True))


@pytest.fixture
def stream(monkeypatch):
    """A transfer on a device with streams, and what happens on them in order; its memory is the host's."""
    log, here = [], ["main"]

    class Stream:
        def __init__(self, device):
            self.device = device

        def __enter__(self):
            here.append("side")

        def __exit__(self, *_):
            here.pop()

        def record_event(self):
            log.append(("event", here[-1]))
            return "done"

    class Main:
        def wait_event(self, event):
            log.append(("wait", event))

        def synchronize(self):
            log.append(("settled",))

    def copied(tensor, device, non_blocking):
        assert non_blocking
        log.append(("copy", here[-1], tensor.nbytes))
        return tensor.clone()

    monkeypatch.setattr(torch, "Stream", Stream)
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda device: Main())
    monkeypatch.setattr(torch.Tensor, "to", copied)
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda tensor: tensor.dtype == torch.float32)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: log.append(("held", tensor.dtype)))
    monkeypatch.setattr(Transfers, "empty", lambda self, nbytes: torch.empty(nbytes, dtype=torch.uint8))
    return Transfers(torch.device("cuda", 0)), log


def test_copies_run_beside_the_kernels_and_are_waited_for(stream):
    """Pinned matrices go whole; some rows, and what is not pinned, in one piece."""
    transfers, log = stream
    pinned, mapped, index = noise(8, 4), noise(8, 4).half(), np.array([1, 5], np.int32)
    sent = transfers.send([(pinned, None), (pinned, index), (mapped, None)])
    assert log == [("copy", "side", 8 * 4 * 4 if first else 64 + 64) for first in (False, True)] + [("event", "side")]
    log.clear()
    arrived = transfers.arrived(sent)
    assert log[0] == ("wait", "done")
    assert log[1:] == [("held", t.dtype) for t in arrived]
    assert torch.equal(arrived[0], pinned)
    assert torch.equal(arrived[1], pinned[[1, 5]])
    assert torch.equal(arrived[2], mapped)
    log.clear()
    far = torch.zeros(8, 4)
    transfers.receive(far, pinned)
    transfers.settle()
    assert torch.equal(far, pinned)
    assert log == [("settled",)]


def test_nothing_to_send_is_nothing_to_wait_for(stream):
    transfers, log = stream
    assert transfers.arrived(transfers.send([])) == []
    assert log == []


def test_memory_that_is_pinned_takes_a_power_of_two():
    assert [Transfers(torch.device("cuda")).taken(n) for n in (0, 1, 2, 5, 1024, 1025)] == [0, 1, 2, 8, 1024, 2048]
    assert Transfers(torch.device("mps")).taken(1025) == 1025
