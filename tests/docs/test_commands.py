"""Help and the page of the command line name the same commands and options."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from commands import run
from docs.pages import BLOCK, PAGES, ROOT, title
from retouch.cli import app

PAGE = (ROOT / "docs" / "guide" / "command-line.md").read_text()


def commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and sub-command that does something, with its words."""
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*words, name))
    if not hasattr(command, "commands"):
        yield words, command


COMMANDS = dict(commands(get_command(app)))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_and_option_has_help(words):
    result = run(*words, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.output
    assert COMMANDS[words].callback.__doc__
    assert all(parameter.help for parameter in COMMANDS[words].params)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_pages_named_in_help_exist(words):
    for parameter in COMMANDS[words].params:
        assert "README" not in parameter.help
        for page in re.findall(r"docs/[\w/-]+\.md", parameter.help):
            assert (ROOT / page).is_file()


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_an_example(words):
    assert f"\nretouch {' '.join(words)}" in PAGE


@pytest.mark.parametrize("document", PAGES, ids=title)
def test_commands_in_the_text_exist(document):
    for line in re.findall(r"`retouch ([a-z][^`]*)`", BLOCK.sub("", document.read_text())):
        words = tuple(re.match(r"[a-z]+(?: [a-z]+)*", line)[0].split())
        known = [known for known in COMMANDS if known == words[: len(known)] or words == known[: len(words)]]
        assert known, line
        options = {option for name in known for each in COMMANDS[name].params for option in each.opts}
        assert set(re.findall(r"(?<= )--[a-z]+(?:-[a-z]+)*", line)) <= options, line
