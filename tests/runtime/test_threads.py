"""PyTorch's threads between kernels."""

import threading

import pytest
import torch
from torch import nn

import retouch
from editing.diffusion.test_session import opened
from pipelines import painted
from retouch import Region
from retouch.editing.diffusion.sampler import Trajectory
from retouch.ops.dense import ELEMENT, Dense
from retouch.runtime import threads
from retouch.runtime.threads import all_threads, one_thread, thread_count, threads_for
from support import SHARED, edit, fill, noise, spot


class Told(nn.Module):
    """An image, told a time."""

    def __init__(self):
        super().__init__()
        self.conv, self.time = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(4, 8)

    def forward(self, x, t):
        return self.conv(x) + self.time(t)[:, :, None, None]


@pytest.fixture
def three():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def counts(monkeypatch):
    """PyTorch's threads whenever a dense operation runs."""
    found, run = [], Dense.run
    monkeypatch.setattr(Dense, "run", lambda op, given: (found.append(torch.get_num_threads()), run(op, given))[1])
    return found


def elsewhere():
    """PyTorch's threads in another thread that begins now."""
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


def test_the_calling_thread_alone_has_one(three):
    with one_thread(), one_thread():
        assert (torch.get_num_threads(), thread_count(), elsewhere()) == (1, 3, 3)
        with all_threads():
            assert (torch.get_num_threads(), thread_count()) == (3, 3)
        assert (torch.get_num_threads(), thread_count()) == (1, 3)
    assert (torch.get_num_threads(), thread_count(), elsewhere()) == (3, 3, 3)


def test_what_fails_leaves_them_as_they_were(three):
    for context in (one_thread, all_threads):
        with pytest.raises(ZeroDivisionError), one_thread(), context():
            raise ZeroDivisionError
        assert (torch.get_num_threads(), thread_count()) == (3, 3)


def test_arithmetic_that_is_worth_it_gets_all(three):
    for effort, inside in ((threads.WORTH - 1, 1), (threads.WORTH, 3)):
        with one_thread(), threads_for(effort):
            assert torch.get_num_threads() == inside


def test_small_products_of_an_update_run_on_one_and_large_ones_on_all(three, counts, monkeypatch):
    x, t, mask = noise(1, 3, 16, 16), noise(1, 4, seed=2), spot(16, 16)
    net = retouch.compile(fill(Told()), (x, t), policy=SHARED, backend="cpu")
    (chain,) = net.plan.chains
    assert chain.effort == 4 * 8 + ELEMENT * sum(op.out.shape[1] for op in chain.ops)
    recording = net.record(x, t)[1]
    net.update(recording, Region.from_mask(mask), edit(x, mask), t + 1)
    assert counts
    assert set(counts) == {1}
    counts.clear()
    monkeypatch.setattr(threads, "WORTH", chain.effort)
    net.update(recording, Region.from_mask(mask), edit(x, mask), t + 2)
    assert set(counts) == {3}


def test_kernels_that_are_pytorchs_have_all(three, monkeypatch):
    x, t, mask = noise(1, 3, 16, 16), noise(1, 4, seed=2), spot(16, 16)
    net, found = retouch.compile(fill(Told()), (x, t), policy=SHARED, backend="reference"), []
    gemm = net.backend.kernels["gemm"]
    monkeypatch.setitem(net.backend.kernels, "gemm", lambda *args: (found.append(torch.get_num_threads()), gemm(*args)))
    with one_thread():
        recording = net.record(x, t)[1]
        net.update(recording, Region.from_mask(mask), edit(x, mask), t)
    assert set(found) == {3}


def test_large_results_that_are_no_products_are_made_on_all(three, counts, monkeypatch):
    class Summed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1)

        def forward(self, x):
            return torch.cumsum(self.conv(x), 2)

    x = noise(1, 3, 16, 16)
    net = retouch.compile(fill(Summed()), (x,), policy=SHARED, backend="cpu")
    net.record(x)
    assert counts == [1]
    monkeypatch.setattr(threads, "WORTH", ELEMENT * 8 * 16 * 16)
    net.record(x)
    assert counts == [1, 3]


def test_dense_runs_of_the_module_have_all(three):
    x, t = noise(1, 3, 16, 16), noise(1, 4, seed=2)
    net, found = retouch.compile(fill(Told()), (x, t), policy=SHARED, backend="cpu"), []
    net.module.register_forward_hook(lambda *_: found.append(torch.get_num_threads()))
    with one_thread():
        net(x, t)
    assert found == [3]


def test_the_arithmetic_of_a_sampler_between_steps_is_done_on_one(three, monkeypatch):
    session, found, advance = opened("ddpm", "fast", steps=3), [], Trajectory.advance
    monkeypatch.setattr(
        Trajectory,
        "advance",
        lambda *args: (found.append((torch.get_num_threads(), thread_count())), advance(*args))[1],
    )
    session.edit(painted(session.pixels))
    assert found == [(1, 3)] * session.version.facts["steps"]
