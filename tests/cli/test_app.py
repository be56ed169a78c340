"""The command that all others belong to."""

from commands import run


def test_no_command_is_help():
    result = run()
    assert "Commands" in result.output
    assert "edit" in result.output


def test_version_names_the_package():
    result = run("--version")
    assert result.exit_code == 0
    assert result.output.startswith("retouch ")
