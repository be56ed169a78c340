"""Logs as lines of JSON: when, how bad, who says it, what; and of jobs their session and number. Tokens are in none;
prompts are where a server was asked for that (`log_prompts`).
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

KNOWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Lines(logging.Formatter):
    """One record, one line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        told = {name: value for name, value in vars(record).items() if name not in KNOWN and name[0] != "_"}
        line = {"time": when, "level": record.levelname, "logger": record.name, "message": record.getMessage(), **told}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def start(level: int = logging.INFO) -> None:
    """Write what retouch logs to stderr, in lines of JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    logger = logging.getLogger("retouch")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(level)
