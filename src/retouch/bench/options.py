"""What suites are asked for, looked up before they run."""

from __future__ import annotations

from collections.abc import Iterable

from retouch import kernels
from retouch.errors import OptionError
from retouch.kernels import Backend
from retouch.kernels.devices import selected


def chosen(names: Iterable[str], choices: Iterable[str], what: str) -> list[str]:
    """The names; OptionError listing the choices if one is none of them."""
    found, known = list(names), list(choices)
    for name in found:
        if name not in known:
            raise OptionError(f"unknown {what} {name!r}; choose from: {', '.join(known)}")
    return found


def backend_of(name: str, device: str = "cpu") -> Backend:
    """The backend of that name on a device; OptionError where it cannot compute."""
    try:
        return kernels.backend(name, str(selected(device, name)))
    except (ValueError, ImportError) as error:
        raise OptionError(str(error)) from error
