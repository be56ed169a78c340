"""Running `retouch` in this process."""

from __future__ import annotations

from typing import Any

from typer.testing import CliRunner, Result

from retouch.cli import app

EDIT = ("--steps", 3, "--strength", 0.7)
"""Options of a short recording: two steps are run."""


def run(*args: Any) -> Result:
    """What `retouch` with these arguments did."""
    return CliRunner().invoke(app, [str(argument) for argument in args])


def said(result: Result) -> str:
    """What it said on stderr, in one line."""
    return " ".join(result.stderr.split())
