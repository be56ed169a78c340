"""Every block of code in README, documentation and benchmarks works.

Python blocks are run, those of one page in one namespace; so are commands, in the same folder. A comment before
a block says otherwise: `<!-- snippet: parse -->` for commands that would take minutes, whose names, options and
arguments are checked only, and `<!-- snippet: with unet -->` for objects that it takes for granted.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from commands import run
from docs.givens import EMOJI, GIVENS, files, small_emoji
from docs.pages import BLOCK, PAGES, ROOT, Block, blocks, title
from retouch.cli import app
from retouch.cli.demo import NEXT
from retouch.frontend.lowering import context, driver
from retouch.models.builtin import PIPELINES

TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pipeline that stands for the built-in one."""
    return small_emoji(tmp_path_factory.mktemp("model"))


@pytest.fixture
def folder(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the files of the pages; rules of lowering that a page adds go with it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PIPELINES, EMOJI, model)
    rules = dict(context.RULES)
    for module in (context, driver):
        monkeypatch.setattr(module, "RULES", rules)
    files(tmp_path)
    return tmp_path


@pytest.mark.parametrize("document", [page for page in PAGES if blocks(page)], ids=title)
def test_every_block_works(document, folder):
    names: dict[str, Any] = {}
    for block in blocks(document):
        assert block.language in CHECKS, f"{block}: a block of code names its language; {list(CHECKS)} are checked"
        CHECKS[block.language](block, names)


def check_python(block: Block, names: dict[str, Any]) -> None:
    """Run a block, or compile it where the page says so; tracebacks show the lines of the page."""
    code = compile("\n" * (block.line - 1) + block.code, str(block.page), "exec")
    if block.how == "parse":
        return
    for given in block.how.removeprefix("with").split():
        names |= GIVENS[given]()
    exec(code, names)


def check_shell(block: Block, _: dict[str, Any]) -> None:
    """Run or parse the commands of this package; look up targets of make and extras to install."""
    for line in block.code.splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        assert words[0] in PROGRAMS, f"{block}: no check for {words[0]!r}"
        PROGRAMS[words[0]](block, words[1:])


def check_retouch(block: Block, args: list[str]) -> None:
    """Run a command, or parse it where the page says so."""
    if block.how == "parse":
        parse(args)
        return
    result = run(*args)
    assert result.exit_code == 0, f"{block}: retouch {shlex.join(args)}\n{result.output}"


def parse(args: list[str]) -> None:
    """Raises for a command that does not exist, and for options and arguments that it does not take."""
    command, words = get_command(app), list(args)
    while hasattr(command, "commands"):
        assert words, f"retouch {shlex.join(args)} is no command"
        name = words.pop(0)
        assert name in command.commands, f"retouch {shlex.join(args)}: there is no {name!r}"
        command = command.commands[name]
    command.make_context(command.name, words)


def check_make(block: Block, args: list[str]) -> None:
    """The targets exist."""
    assert set(args) <= TARGETS, str(block)


def check_pip(block: Block, args: list[str]) -> None:
    """The extras exist."""
    for extras in re.findall(r"\[(.*)\]", " ".join(args)):
        assert set(extras.split(",")) <= EXTRAS, str(block)


def check_text(block: Block, _: dict[str, Any]) -> None:
    """What a program printed; nothing to run."""


def check_script(block: Block, args: list[str]) -> None:
    """A script of the repository, which is there."""
    assert (ROOT / args[0]).is_file(), block


def check_serve(block: Block, args: list[str]) -> None:
    """Ray Serve's command, with a file that the page brings."""
    assert args[0] == "run", block
    assert (ROOT / "docs/guide/serving" / args[1]).is_file(), block


PROGRAMS = {
    "retouch": check_retouch,
    "make": check_make,
    "pip": check_pip,
    "serve": check_serve,
    "python": check_script,
}
CHECKS = {"python": check_python, "sh": check_shell, "text": check_text}


def test_the_demo_ends_with_commands_that_exist():
    named = [line for line in NEXT.splitlines() if line.startswith("  retouch ")]
    assert len(named) == 5
    for line in named:
        parse(shlex.split(line, comments=True)[1:])


def test_a_wrong_option_is_found():
    with pytest.raises(Exception, match="No such option"):
        parse(["edit", "a.png", "b.png", "-o", "c.png", "--no-such-option", "1"])
    with pytest.raises(AssertionError, match="there is no"):
        parse(["no-such-command"])
    with pytest.raises(Exception, match="Missing"):
        parse(["explain"])


@pytest.mark.parametrize("document", PAGES, ids=title)
def test_links_lead_to_files(document):
    for target in re.findall(r"\]\(([^)#\s]+)", BLOCK.sub("", document.read_text())):
        if "://" not in target:
            found = (document.parent / target).resolve()
            # The site shows other folders of the repository beside the pages of docs/.
            shown = ROOT / str(found.relative_to(ROOT)).removeprefix("docs/")
            assert found.exists() or (document.is_relative_to(ROOT / "docs") and shown.exists()), target
