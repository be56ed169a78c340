"""Help and README name the same commands and options."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from commands import run
from retouch.cli import app

README = (Path(__file__).parents[2] / "README.md").read_text()
COMMANDS = get_command(app).commands


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name):
    result = run(name, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.output
    command = COMMANDS[name]
    assert command.callback.__doc__
    assert all(parameter.help for parameter in command.params)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_readme(name):
    assert f"\nretouch {name} " in README


def test_the_readme_names_no_other_commands_and_options():
    lines = re.findall(r"(?:^|`)retouch ([a-z]+)([^`\n#]*)", README, re.MULTILINE)
    assert lines
    for name, rest in lines:
        assert name in COMMANDS, name
        options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
        assert set(re.findall(r"(?<= )--?[a-z]+(?:-[a-z]+)*", rest)) <= options, rest


def test_no_command_is_help():
    result = run()
    assert "Commands" in result.output
    assert "edit" in result.output


def test_version_names_the_package():
    result = run("--version")
    assert result.exit_code == 0
    assert result.output.startswith("retouch ")
