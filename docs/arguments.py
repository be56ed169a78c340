"""Docstrings here name an argument at the beginning of a line; the site shows a list of them."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

ARGUMENT = re.compile(r"^((?:\w+)(?:, \w+)*): ", re.MULTILINE)


class Arguments(Extension):
    """Turns lines such as `name: what it is` into list items."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of an object."""
        if obj.docstring:
            obj.docstring.value = as_list(obj.docstring.value)


def as_list(text: str) -> str:
    """The text with its arguments as a Markdown list."""
    parts = re.split(r"\n\s*\n", text)
    return "\n\n".join(ARGUMENT.sub(r"- `\1`: ", part) if ARGUMENT.match(part) else part for part in parts)
