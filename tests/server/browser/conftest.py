"""The page in front of a server with a tiny model, and of one without a model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browsing import CHROMIUM, QUIET, Double, Real, Sheet, doubled


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without a browser the tests say what they miss."""
    for item in items:
        if Path(__file__).parent in item.path.parents and not CHROMIUM:
            item.add_marker(pytest.mark.skip(reason="no browser: install chromium (Debian: apt-get install chromium)"))


@pytest.fixture(scope="session")
def browser_type_launch_args() -> dict[str, Any]:
    return {"executable_path": CHROMIUM, "args": [f"--{flag}" for flag in QUIET]}


@pytest.fixture(scope="session")
def browser_context_args() -> dict[str, Any]:
    return {"viewport": {"width": 1280, "height": 800}}


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    made = Real(tmp_path_factory.mktemp("studio"))
    yield made
    made.kill()


@pytest.fixture(scope="session")
def double() -> Iterator[Double]:
    with doubled() as made:
        yield made


@pytest.fixture
def sheet(page: Any, real: Real) -> Iterator[Sheet]:
    """The page in front of the tiny model."""
    made = Sheet(page)
    page.goto(real.link)
    yield made
    assert not made.errors


@pytest.fixture
def plain(page: Any, double: Double) -> Iterator[Sheet]:
    """The page in front of the server without a model."""
    double.delay, double.fail, double.uploads, double.drafts, double.sent = 0.2, "", [], [], 0
    double.hold = False
    made = Sheet(page)
    page.goto(double.address)
    yield made
    assert not made.errors
