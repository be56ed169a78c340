"""The page of the API has what users import."""

import re

import pytest

import retouch
from docs.pages import ROOT

PAGE = (ROOT / "docs" / "api.md").read_text()


@pytest.mark.parametrize("name", [name for name in retouch.__all__ if not name.endswith(("Error", "Warning"))])
def test_every_public_name_is_on_the_page(name):
    assert f"::: retouch.{name}\n" in PAGE


def test_errors_are_put_there():
    assert "<!-- errors -->" in PAGE


def test_nothing_else_is_named_as_public():
    assert set(re.findall(r"^::: retouch\.(\w+)$", PAGE, re.MULTILINE)) <= set(retouch.__all__)
