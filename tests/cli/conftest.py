"""A saved model, pictures, and a recorded session, to run commands on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from commands import EDIT, run
from pipelines import painted, picture, pipeline
from retouch.editing.images import save_png


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pipeline whose network reads no words."""
    folder = tmp_path_factory.mktemp("model") / "ddpm"
    pipeline("ddpm").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """A folder with a.png, b.png (a stroke on it), and the session `house` in which that was made one.png."""
    folder = tmp_path_factory.mktemp("pictures")
    save_png(picture("ddpm"), folder / "a.png")
    save_png(painted(picture("ddpm")), folder / "b.png")
    args = ["edit", folder / "a.png", folder / "b.png", "-o", folder / "one.png", "--session", folder / "house"]
    result = run(*args, "--model", model, *EDIT)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def folder(tmp_path: Path, written: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of these, which is the working directory."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path
