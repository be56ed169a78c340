"""Sizes as users write them, and where pictures can be written."""

import warnings

import pytest

from commands import run
from retouch.cli.common import byte_count, check_picture_file
from retouch.errors import FallbackWarning


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
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
    with pytest.raises(ValueError, match="is no size; write 4GB"):
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
        with pytest.raises(ValueError, match=message):
            check_picture_file(tmp_path / name)


def test_a_fallback_is_noted_and_other_warnings_are_left_alone(monkeypatch):
    shown, before = [], warnings.showwarning
    monkeypatch.setattr(warnings, "showwarning", lambda *args, **options: shown.append(args[1]))

    def warned():
        warnings.warn("the GPU cannot be used", FallbackWarning, stacklevel=1)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        return "1"

    monkeypatch.setattr("retouch.bench.machine.package_version", warned)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        result = run("--version")
    assert result.exit_code == 0
    assert "retouch: the GPU cannot be used" in result.stderr
    assert shown == [DeprecationWarning]
    monkeypatch.undo()
    assert warnings.showwarning is before
