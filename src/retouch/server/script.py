"""The page's modules as one script: a browser asks for one file, not for fifty.

Every module becomes a function that is called once and returns what the module exports. That is for modules as they
are written here: they export declarations of functions, classes and constants, import each other in no circle, and do
not wait at their top.
"""

from __future__ import annotations

import re
from collections.abc import Callable

IMPORT = re.compile(r"^import (?:\* as (\w+)|(\{\s*\w+(?:,\s*\w+)*,?\s*\})) from '\./(\w+)\.js';$", re.M)
EXPORT = re.compile(r"^export (?=(?:async )?(?:function\*?|class|const) (\w+))", re.M)
OTHER = re.compile(r"^(?:import|export)\b.*", re.M)


def joined(entry: str, read: Callable[[str], str]) -> str:
    """A module with all that it imports, which exports what it does. ValueError for a way to import or export that is
    not known here, and for modules that import each other.

    read: the source of a module, by its name without ".js".
    """
    made: dict[str, str] = {}
    above: list[str] = []

    def add(name: str) -> None:
        if name in above:
            raise ValueError(f"{' -> '.join([*above, name])}: modules that import each other cannot be joined")
        if name in made:
            return
        above.append(name)
        source = read(name)
        for found in IMPORT.finditer(source):
            add(found[3])
        made[name] = _function(name, source)
        above.pop()

    add(entry)
    exported = ", ".join(EXPORT.findall(read(entry)))
    return "".join(made.values()) + f"export const {{ {exported} }} = ${entry};\n"


def _function(name: str, source: str) -> str:
    body, exported = EXPORT.sub("", IMPORT.sub(_taken, source)), ", ".join(EXPORT.findall(source))
    if (other := OTHER.search(body)) is not None:
        raise ValueError(f"{name}.js: cannot join {other[0]!r}")
    return f"const ${name} = (() => {{\n{body}return {{ {exported} }};\n}})();\n"


def _taken(found: re.Match[str]) -> str:
    """An import as a constant."""
    return f"const {found[1] or found[2]} = ${found[3]};"
