"""Tuning tiles: what is measured, printed and put into the tables, with a stand-in for the clock."""

import os
import re
import subprocess
import sys
from io import StringIO

import pytest
import torch
from rich.console import Console

from kernels import interpreter
from retouch.bench.harness import Progress
from retouch.bench.tiles import Tiles
from retouch.kernels.triton import tune
from retouch.kernels.triton.tiles import AttentionTile, Tile

interpreter.correct()
CPU = torch.device("cpu")
SECOND = Tile(32, 16, 16, 4, 2)


def retouch(*arguments):
    """A finished `retouch` without the interpreter of kernels and without GPUs."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "retouch.cli", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_without_a_gpu_one_line_says_so():
    done = retouch("bench", "tiles")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("retouch: this needs a GPU")
    assert len(done.stderr.splitlines()) == 1


def test_an_unknown_architecture_is_named():
    done = retouch("bench", "tiles", "--list", "sm_1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "choose from: sm_80, sm_86, sm_90" in done.stderr


@pytest.fixture
def few(monkeypatch):
    """Two candidates of each table, all of which run well."""
    tables = {
        tune.PRODUCTS: (tune.Product(1, 8, 20), [Tile(64, 64, 32, 4, 2), SECOND]),
        tune.ATTENTION: (
            tune.Attention(8, 5, 20),
            [AttentionTile(32, 32, 64, 64, 4, 2), AttentionTile(16, 32, 64, 64, 4, 2)],
        ),
    }
    kinds = [
        tune.Kind(kind.table, kind.kernel, {2: candidates, 4: candidates}, (), (shape,))
        for kind, (shape, candidates) in tables.items()
    ]
    monkeypatch.setattr(tune, "KINDS", kinds)
    monkeypatch.setattr(tune, "fits", lambda *_: True)
    monkeypatch.setattr(tune, "DEVICE", CPU)
    monkeypatch.setattr("retouch.bench.tiles.machine.facts", lambda device: {"gpu": device})
    return kinds


def test_what_is_printed_goes_into_the_tables(few, monkeypatch):
    """A whole run on a few candidates, with a clock that prefers the second of them."""

    def timer(run):
        run()
        return 1.0 if any(kind.used[size] == kind.candidates[2][1] for kind in few for size in (2, 4)) else 3.0

    said = []
    monkeypatch.setattr(tune, "present", lambda: tune.named("sm_86"))
    monkeypatch.setattr("retouch.bench.tiles._median", timer)
    suite = Tiles()
    results = list(suite.results(Progress(lambda *x: said.append(x))))
    text = StringIO()
    for table in suite.tables(results):
        Console(file=text, width=100).print(table)
    assert '"sm_86": {2: Tile(32, 16, 16, 4, 2), 4: Tile(32, 16, 16, 4, 2)},' in suite.lines()
    assert '"sm_86": {2: AttentionTile(16, 32, 64, 64, 4, 2), 4: AttentionTile(16, 32, 64, 64, 4, 2)},' in suite.lines()
    assert re.search(r"Tile\(64, 64, 32, 4, 2\) \(in use\) +3\.000", text.getvalue())
    assert re.search(r"Tile\(64, 64, 16, 4, 2\) \(in use\) +left out", text.getvalue())
    assert re.search(r"float32 +8 +5 +20 +1\.000 +3\.000", text.getvalue())
    assert {(x["kernel"], x["dtype"], x["ms"]) for x in results if x["kernel"] == "sdpa"} == {
        ("sdpa", f"torch.{name}", 3.0) for name in ("float16", "bfloat16", "float32")
    }
    assert len(results) == 2 * 2 * 3 + 3
    assert all(each["machine"] == {"gpu": "cuda"} for each in results)
    assert said[0][0] == "compiling TILES, 2 bytes"
    assert [done for _, done in said] == sorted(done for _, done in said)


def test_candidates_of_another_gpu_are_listed(few):
    suite = Tiles("sm_90")
    suite.check()
    assert list(suite.results()) == suite.tables([]) == []
    lines = suite.lines().splitlines()
    assert lines[:2] == ["TILES, 2 bytes, sm_90: 2 of 2", "    Tile(64, 64, 32, 4, 2)"]
    assert len(lines) == 12
