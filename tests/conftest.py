"""Fixtures of all tests: every backend, one and two samples."""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton reads it when it is imported, and PyTorch may do that

import pytest
import torch
from hypothesis import settings

from retouch.editing import collection
from support import BACKENDS, costs

# The networks here are tiny, and the suite may run in several processes.
torch.set_num_threads(1)

# A busy machine is no failure.
settings.register_profile("retouch", deadline=None)
settings.load_profile("retouch")


@pytest.fixture(autouse=True)
def no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """ "auto" is the CPU on every machine, as results are compared with those of modules there."""
    monkeypatch.setattr("retouch.kernels.devices._accelerator", lambda: None)


@pytest.fixture(autouse=True, scope="session")
def no_clock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Updates are chosen by arithmetic alone: nothing is timed, and every machine decides alike.

    Processes that tests start do time kernels, and keep the figures in a folder of the tests.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retouch.incremental.costs_of", lambda backend: costs())
        patch.setenv("RETOUCH_CACHE", str(tmp_path_factory.getbasetemp().parent / "rates"))
        yield


@pytest.fixture(autouse=True, scope="session")
def seldom() -> Iterator[None]:
    """Threads that wait for edits collect garbage after more of them: what all tests hold takes a second to look at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collection, "OFTEN", 8 * collection.OFTEN)
        yield


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[1, 2], ids=["one", "two"])
def batch(request: pytest.FixtureRequest) -> int:
    return int(request.param)
