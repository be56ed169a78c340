"""The command line: one file per group of commands, all on one `app`."""

from retouch.cli import edit as edit
from retouch.cli.app import app

__all__ = ["app"]
