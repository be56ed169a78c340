"""`retouch edit`, `info`, `undo`, `redo` as a user runs them."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from pipelines import painted, picture, pipeline
from retouch.cli import app
from retouch.images import as_pixels, save_png

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "ddpm"
    pipeline("ddpm").save_pretrained(folder)
    return folder


@pytest.fixture
def pictures(tmp_path):
    before = picture("ddpm")
    save_png(before, tmp_path / "a.png")
    save_png(painted(before), tmp_path / "b.png")
    return tmp_path


def run(*args):
    return CliRunner().invoke(app, [str(a) for a in args])


def edit(folder, model, *args, original="a.png", edited="b.png"):
    options = ["-o", folder / "out.png", "--model", model, "--steps", 3, "--strength", 0.7, *args]
    return run("edit", folder / original, folder / edited, *options)


def test_edit_writes_the_picture_a_preview_and_a_table(model, pictures):
    result = edit(pictures, model, "--preview", pictures / "p.png", "--scheduler", "ddim", "--policy", "fast")
    assert result.exit_code == 0, result.output
    before, out = as_pixels(pictures / "a.png"), as_pixels(pictures / "out.png")
    assert (out != before).any()
    assert np.array_equal(out[25:], before[25:])
    assert as_pixels(pictures / "p.png").shape[1] > 3 * 32
    assert "faster" in result.output
    assert "2.4%" in result.output


def test_an_edit_that_changes_nothing(model, pictures):
    result = edit(pictures, model, edited="a.png")
    assert result.exit_code == 0
    assert "nothing differs" in result.output
    assert np.array_equal(as_pixels(pictures / "out.png"), as_pixels(pictures / "a.png"))


def test_a_session_goes_on_is_shown_undone_and_redone(model, pictures):
    folder = pictures / "session"
    assert edit(pictures, model, "--session", folder).exit_code == 0
    first = as_pixels(pictures / "out.png")
    save_png(first, pictures / "c.png")
    save_png(painted(first, 2, 2), pictures / "d.png")
    again = run("edit", pictures / "c.png", pictures / "d.png", "-o", pictures / "two.png", "--session", folder)
    assert again.exit_code == 0, again.output
    facts = json.loads(run("info", folder, "--json").output)
    assert [v["edit"] for v in facts["versions"]] == ["photograph", "edit", "edit"]
    assert "current picture" in run("info", folder).output
    assert run("undo", folder, "-o", pictures / "back.png").exit_code == 0
    assert np.array_equal(as_pixels(pictures / "back.png"), first)
    assert run("undo", folder).exit_code == 0
    last = run("undo", folder)
    assert last.exit_code == 1
    assert "nothing to undo" in last.output
    run("redo", folder)
    assert run("redo", folder, "-o", pictures / "forth.png").exit_code == 0
    assert np.array_equal(as_pixels(pictures / "forth.png"), as_pixels(pictures / "two.png"))


def test_a_session_takes_its_current_picture_and_its_own_settings(model, pictures):
    folder = pictures / "session"
    edit(pictures, model, "--session", folder)
    wrong = run("edit", pictures / "a.png", pictures / "b.png", "-o", pictures / "x.png", "--session", folder)
    assert wrong.exit_code == 1
    assert "is not the current picture" in wrong.output
    fixed = edit(pictures, model, "--session", folder)
    assert fixed.exit_code == 2
    assert "--steps" in fixed.output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--strength", "1.5"], "strength"),
        (["--memory", "much"], "is no size"),
        (["--mask", "missing.png"], "missing.png"),
        (["--preview", "nowhere/p.png"], "no folder"),
    ],
)
def test_wrong_usage(model, pictures, args, message):
    result = edit(pictures, model, *args)
    assert result.exit_code == 2
    assert message in result.output
    assert not (pictures / "out.png").exists()


def test_no_model_no_picture_other_sizes_and_no_session(model, pictures):
    missing = run("edit", pictures / "a.png", pictures / "b.png", "-o", pictures / "x.png")
    assert (missing.exit_code, "--model" in missing.output) == (2, True)
    assert edit(pictures, model, original="none.png").exit_code == 2
    save_png(picture("ddpm")[:16], pictures / "small.png")
    assert "different sizes" in edit(pictures, model, edited="small.png").output
    assert edit(pictures, pictures).exit_code == 1
    for command in ("info", "undo", "redo"):
        result = run(command, pictures)
        assert (result.exit_code, "holds no session" in result.output) == (1, True)


def test_a_size_that_the_model_does_not_divide_leaves_no_session(model, pictures):
    save_png(picture("ddpm")[:31], pictures / "a.png")
    save_png(painted(picture("ddpm")[:31]), pictures / "b.png")
    result = edit(pictures, model, "--session", pictures / "session")
    assert result.exit_code == 1
    assert "multiples of 2" in result.output
    assert not (pictures / "session").exists()


SCRIPT = """
import sys
import retouch.cli.edit as edit
from retouch.cli import app
record = edit._recorded
def interrupted(*args):
    import os, signal
    *rest, progress = args
    def tick(done, total, what):
        progress(done, total, what)
        if done == 2:
            os.kill(os.getpid(), signal.SIGINT)
    return record(*rest, tick)
edit._recorded = interrupted
app(sys.argv[1:])
"""


def test_ctrl_c_leaves_nothing(model, pictures):
    args = ["edit", "a.png", "b.png", "-o", "out.png", "--model", str(model), "--session", "s", "--steps", "6"]
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, *args], cwd=pictures, capture_output=True, text=True, check=False, env=os.environ
    )
    assert ran.returncode == 130, ran.stderr
    assert "interrupted" in ran.stderr
    assert not (pictures / "out.png").exists()
    assert not (pictures / "s").exists()


def test_every_command_has_help_and_is_in_the_readme():
    from pathlib import Path

    readme = (Path(__file__).parents[2] / "README.md").read_text()
    for command in app.registered_commands:
        assert command.callback.__doc__
        assert f"retouch {command.name or command.callback.__name__}" in readme
