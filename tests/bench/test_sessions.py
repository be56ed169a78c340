"""The end-to-end benchmark of sessions, and crop-and-stitch."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from retouch.bench.crop import crop_box
from retouch.cli import app

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.mark.parametrize("corner", [(0, 0), (30, 40), (56, 56)])
def test_the_crop_holds_the_mask_and_stays_inside(corner):
    mask = np.zeros((64, 64), bool)
    top, left = corner
    mask[top : top + 8, left : left + 8] = True
    x0, y0, x1, y1 = crop_box(mask, (64, 64))
    assert 0 <= x0 <= left
    assert left + 8 <= x1 <= 64
    assert 0 <= y0 <= top
    assert top + 8 <= y1 <= 64
    assert (x1 - x0, y1 - y0) == (12, 12)


def test_bench_session_writes_results_and_a_table(tmp_path):
    out = tmp_path / "out.json"
    args = ["bench", "--session", "--tiny", "--steps", "2", "--policy", "exact", "--json", str(out)]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    assert "ddpm-256" in result.output
    (found,) = json.loads(out.read_text())
    assert found["update_mean_abs_err_image"] < 0.1
    assert found["step_bytes"] > 0


def test_bench_session_refuses_unknown_pipelines():
    result = CliRunner().invoke(app, ["bench", "--session", "--model", "nothing"])
    assert result.exit_code == 2
    assert "unknown pipeline" in result.output
