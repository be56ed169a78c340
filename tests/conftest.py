"""Fixtures of all tests: every backend, one and two samples."""

from __future__ import annotations

import pytest
from support import BACKENDS


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[1, 2], ids=["one", "two"])
def batch(request: pytest.FixtureRequest) -> int:
    return int(request.param)
