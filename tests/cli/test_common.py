"""Sizes as users write them, and where pictures can be written."""

import warnings

import pytest
import typer

from commands import run
from retouch.bench.options import byte_count
from retouch.cli.common import check_file, check_picture_file, failures, usage_errors
from retouch.errors import FallbackWarning, RetouchError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("4GB", 4 * 10**9),
        ("4gb", 4 * 10**9),
        (" 512 MB ", 512 * 10**6),
        ("1.5G", 15 * 10**8),
        ("2GiB", 2 * 2**30),
        ("1Ti", 2**40),
        ("100k", 10**5),
        ("17B", 17),
    ],
)
def test_sizes(text, expected):
    assert byte_count(text) == expected


@pytest.mark.parametrize(
    "text", ["", "4", "GB", "-1GB", "4XB", "4iB", "1e9", "nan", "infGB", "1,5GB", "9" * 400 + "GB"]
)
def test_other_text_is_no_size(text):
    with pytest.raises(typer.BadParameter, match="is no size; write 4GB"):
        byte_count(text)


def test_picture_files(tmp_path):
    check_picture_file(tmp_path / "new.png")
    check_picture_file(tmp_path / "new.JPEG")
    (tmp_path / "folder.png").mkdir()
    for name, message in {
        "x.psd": "suffix '.psd'",  # Pillow reads it and does not write it
        "x": "suffix ''",
        "missing/x.png": "there is no folder",
        "folder.png": "it is a folder",
    }.items():
        with pytest.raises(RetouchError, match=message):
            check_picture_file(tmp_path / name)


def test_files(tmp_path):
    check_file(tmp_path / "new.json")
    assert not (tmp_path / "new.json").exists()
    (tmp_path / "old.json").write_text("kept")
    check_file(tmp_path / "old.json")
    assert (tmp_path / "old.json").read_text() == "kept"


def test_a_fallback_is_noted_and_other_warnings_are_left_alone(monkeypatch):
    shown, before = [], warnings.showwarning
    monkeypatch.setattr(warnings, "showwarning", lambda *args, **options: shown.append(args[1]))

    def warned(_):
        warnings.warn("the GPU cannot be used", FallbackWarning, stacklevel=1)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        return "1"

    monkeypatch.setattr("importlib.metadata.version", warned)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        result = run("--version")
    assert result.exit_code == 0
    assert "retouch: the GPU cannot be used" in result.stderr
    assert shown == [DeprecationWarning]
    monkeypatch.undo()
    assert warnings.showwarning is before


def code(wrapped, error):
    """The exit code that an error becomes."""
    with pytest.raises(typer.Exit) as found, wrapped:
        raise error
    return found.value.exit_code


def test_errors_of_the_caller_are_one_line(capsys):
    assert code(usage_errors(), RetouchError("name another")) == 2
    assert code(failures(), RetouchError("name another")) == 1
    assert capsys.readouterr().err == "retouch: name another\n" * 2


def test_an_interruption_is_one_line(capsys):
    assert code(failures(), KeyboardInterrupt()) == 130
    assert capsys.readouterr().err.startswith("retouch: interrupted; sessions keep")


def test_any_other_error_is_a_defect_with_its_traceback(capsys):
    with pytest.raises(ValueError, match="odd"), usage_errors():
        raise ValueError("odd")
    assert code(failures(), ValueError("odd")) == 1
    *lines, last = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert "ValueError: odd" in lines
    assert last.startswith("retouch: this is a defect of Retouch")


def test_a_full_disk_is_no_defect(capsys):
    assert code(failures(), OSError(28, "No space left on device")) == 1
    assert capsys.readouterr().err == "retouch: [Errno 28] No space left on device\n"


def test_memory_that_does_not_suffice_is_no_defect(capsys):
    assert code(failures(), MemoryError("64 GB")) == 1
    said = capsys.readouterr().err
    assert said.startswith("retouch: the device's memory did not suffice (64 GB)")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("error", [typer.Exit(3), typer.Abort(), typer.BadParameter("x")])
def test_what_typer_handles_is_left_to_it(error):
    with pytest.raises(type(error)), failures():
        raise error
