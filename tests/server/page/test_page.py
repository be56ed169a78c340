"""The page's modules in Node: unit tests, types, size."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import retouch.server

HERE = Path(__file__).parent
STATIC = Path(retouch.server.__file__).parent / "static"
FILES = [file for file in STATIC.rglob("*") if file.is_file()]
NODE = shutil.which("node")


@pytest.mark.skipif(NODE is None, reason="no node: install Node 20 or newer")
def test_modules_without_a_browser():
    done = subprocess.run([str(NODE), "--test"], cwd=HERE, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(not (HERE / "node_modules").exists(), reason="no typescript: run npm ci in tests/server/page")
def test_types():
    done = subprocess.run(["npx", "tsc"], cwd=HERE, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_page_is_small():
    assert sum(len(gzip.compress(file.read_bytes())) for file in FILES) < 150_000


def test_nothing_is_inline_or_from_elsewhere():
    page = (STATIC / "index.html").read_text()
    assert not re.search(r"<style|style=|<script(?![^>]*src=)|\son\w+=", page)
    for file in FILES:
        text = file.read_text()
        addresses = set(
            re.findall(r"(?:https?:)?//[\w.-]+\.[a-z]{2,}", re.sub(r"^\s*(//|\*).*$", "", text, flags=re.M))
        )
        assert addresses <= {"http://www.w3.org"}, file
        assert "innerHTML" not in text
        assert "eval(" not in text


def test_canvases_are_not_read():
    """But for letters, whose coverage is all that is read."""
    reading = [file.name for file in FILES if re.search(r"getImageData|toDataURL|toBlob\(", file.read_text())]
    assert reading == ["text.js"]


def test_modules_are_loaded_at_once():
    """Without a build step the browser would find them one import after the other."""
    named = set(re.findall(r"static/js/([\w]+\.js)", (STATIC / "index.html").read_text()))
    assert named == {file.name for file in FILES if file.suffix == ".js"} - {"types.js"}
