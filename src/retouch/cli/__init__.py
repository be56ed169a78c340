"""The command line: one file per group of commands, all on one `app`."""

# In the order in which help lists the commands.
from retouch.cli import edit, sessions, studio, bench, inspect  # isort: skip  # noqa: F401
from retouch.cli.app import app

__all__ = ["app"]
