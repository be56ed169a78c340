"""Sessions for tests of jobs, and a progress that stops where a test wants to act."""

from __future__ import annotations

from dataclasses import replace
from threading import Event
from typing import Any

from editing.diffusion.test_session import opened
from retouch import Policy

SPARSE = replace(Policy.named("balanced"), crossover=1.0, margin=0)
"""`balanced`, but that tiny networks are not run whole, nor most of one for the margin."""

WAIT = 120
"""Seconds after which a test fails that waits for another thread."""


def session(name: str = "ddpm", **options: Any) -> Any:
    """A session on a photograph with three steps to redo."""
    return opened(name, SPARSE, steps=3, strength=1.0, **options)


class Gate:
    """A progress that waits for `go` before what is named `at`."""

    def __init__(self, at: str) -> None:
        self.at, self.reached, self.go = at, Event(), Event()
        self.told: list[str] = []

    def __call__(self, done: int, total: int, what: str) -> None:
        self.told.append(what)
        if what.startswith(self.at):
            self.reached.set()
            assert self.go.wait(WAIT)

    def wait(self) -> None:
        """Until it is reached."""
        assert self.reached.wait(WAIT)
