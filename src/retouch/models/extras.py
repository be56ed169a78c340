"""Optional libraries, named in the error when one is missing."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Import `module`; ImportError naming the extra of this package if it is missing."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"this needs the package {module!r} ({error}); install it with: pip install 'retouch[{extra}]'"
        ) from error


def diffusers() -> ModuleType:
    """The `diffusers` package."""
    return require("diffusers", "diffusers")
