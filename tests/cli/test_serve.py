"""`retouch serve`: what is refused before anything is started; logs as lines."""

import importlib
import json
import logging
import re
import sys
from pathlib import Path

import pytest
import yaml

from commands import run, said
from retouch.server.logs import Lines
from retouch.server.metrics import Metrics

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "serving"


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


def test_the_dashboard_shows_figures_that_there_are():
    registry = Metrics().registry
    names = {name for metric in registry.collect() for name in (metric.name, *(s.name for s in metric.samples))}
    names |= {f"{metric.name}{suffix}" for metric in registry.collect() for suffix in ("_total", "_bucket")}
    shown = re.findall(r"ray_(retouch_\w+)", (GUIDE / "dashboard.json").read_text())
    assert len(shown) >= 10
    assert set(shown) <= names
    assert {panel["type"] for panel in json.loads((GUIDE / "dashboard.json").read_text())["panels"]} == {"timeseries"}


@pytest.mark.filterwarnings("ignore")  # those of Ray's imports
def test_the_file_of_a_cluster_is_one():
    pytest.importorskip("ray")
    from retouch.server.ray.settings import ClusterSettings

    (found,) = yaml.safe_load((GUIDE / "cluster.yaml").read_text())["applications"]
    module, name = found["import_path"].split(":")
    assert callable(getattr(importlib.import_module(module), name))
    settings = ClusterSettings(**found["args"])
    assert settings.limits_of(settings.models[0]).memory == 8_000_000_000
    assert settings.limits_of(None).backlog == 60
    with pytest.raises(ValueError, match="extra"):
        ClusterSettings(**found["args"], unknown=1)
