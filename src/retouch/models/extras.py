"""Optional libraries, named in the error when one is missing."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from retouch.errors import RetouchError


class ExtraError(RetouchError, ImportError):
    """A library that is missing; the text names the extra to install."""


def require(module: str, extra: str) -> ModuleType:
    """Import `module`; ExtraError naming the extra of this package if it is missing."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ExtraError(
            f"this needs the package {module!r} ({error}); install it with: pip install 'retouch[{extra}]'"
        ) from error


def diffusers() -> ModuleType:
    """The `diffusers` package."""
    return require("diffusers", "diffusers")
