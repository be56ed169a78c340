"""`retouch serve`: what is refused before anything is started; logs as lines."""

import json
import logging
import sys

from commands import run, said
from retouch.server.logs import Lines


def test_it_says_what_it_needs():
    shown = run("serve", "--model", "builtin/emoji")
    assert shown.exit_code == 2
    assert "--ray" in said(shown)
    shown = run("serve", "--ray")
    assert shown.exit_code == 2
    assert "no model" in said(shown)


def test_a_log_is_lines_of_json():
    record = logging.makeLogRecord({"name": "retouch.server", "levelname": "INFO", "msg": "job %s", "args": ("begun",)})
    record.session, record.job = "0" * 32, 3
    found = json.loads(Lines().format(record))
    assert found.pop("time").endswith("+00:00")
    assert found == {"level": "INFO", "logger": "retouch.server", "message": "job begun", "session": "0" * 32, "job": 3}
    try:
        raise ValueError("a\nb")
    except ValueError:
        record.exc_info = sys.exc_info()
    line = Lines().format(record)
    assert "\n" not in line
    assert "ValueError" in json.loads(line)["trace"]
