"""`python -m retouch.cli`."""

from retouch.cli import app

app()
