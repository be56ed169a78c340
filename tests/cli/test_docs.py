"""Help, README and documentation name the same commands and options."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from commands import run
from retouch.cli import app

ROOT = Path(__file__).parents[2]
TEXT = "\n".join(file.read_text() for file in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))])
TOP = get_command(app).commands
SUITES = {f"bench {name}": command for name, command in TOP["bench"].commands.items()}
COMMANDS = {name: command for name, command in TOP.items() if name != "bench"} | SUITES


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name):
    result = run(*name.split(), "--help")
    assert result.exit_code == 0
    assert "Usage" in result.output
    command = COMMANDS[name]
    assert command.callback.__doc__
    assert all(parameter.help for parameter in command.params)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_documents(name):
    assert f"\nretouch {name} " in TEXT


def test_the_documents_name_no_other_commands_and_options():
    lines = re.findall(r"(?:^|`)retouch ((?:bench )?[a-z]+)([^`\n#]*)", TEXT, re.MULTILINE)
    assert lines
    known = TOP | SUITES
    for name, rest in lines:
        assert name in known, name
        options = {option for parameter in known[name].params for option in parameter.opts}
        assert set(re.findall(r"(?<= )--?[a-z]+(?:-[a-z]+)*", rest)) <= options, rest


def test_no_command_is_help():
    result = run()
    assert "Commands" in result.output
    assert "edit" in result.output


def test_version_names_the_package():
    result = run("--version")
    assert result.exit_code == 0
    assert result.output.startswith("retouch ")
