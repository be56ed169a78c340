"""The page's modules in Node: unit tests, types, size."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import retouch.server
from retouch.server.pages import prepared
from retouch.server.script import joined

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


def test_the_browser_asks_for_one_script():
    """Without a build step it would find the modules one import after the other."""
    assert re.findall(r"static/js/\w+\.js", (STATIC / "index.html").read_text()) == ["static/js/app.js"]
    script = prepared("js/app.js").content.decode()
    assert not re.search(r"^import\b", script, re.M)
    for file in STATIC.glob("js/*.js"):
        assert (f"const ${file.stem} = " in script) == (file.name != "types.js")


@pytest.mark.skipif(NODE is None, reason="no node: install Node 20 or newer")
def test_a_joined_script_is_its_modules(tmp_path):
    (tmp_path / "joined.mjs").write_text(joined("live", lambda name: (STATIC / f"js/{name}.js").read_text()))
    (tmp_path / "both.mjs").write_text(f"""
        import assert from 'node:assert';
        import * as one from './joined.mjs';
        import * as many from '{(STATIC / "js/live.js").as_uri()}';
        assert.deepEqual(Object.keys(one), Object.keys(many));
        assert.deepEqual(Reflect.ownKeys(one.Live.prototype), Reflect.ownKeys(many.Live.prototype));
    """)
    done = subprocess.run([str(NODE), "both.mjs"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("modules", "told"),
    [
        ({"a": "import { b } from './b.js';", "b": "import { a } from './a.js';"}, "a -> b -> a"),
        ({"a": "export default 3;"}, "export default 3"),
        ({"a": "import b from './b.js';"}, "import b"),
        ({"a": "import { b as c } from './b.js';", "b": "export const b = 1;"}, "b as c"),
    ],
)
def test_modules_that_cannot_be_joined(modules, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        joined("a", modules.__getitem__)
