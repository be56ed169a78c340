"""What values of plain data may be, as checks that say yes or no."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[Any], bool]
Fields = Mapping[str, Check]
"""Checks of the values of a mapping by their names; others may be there, too."""

_MISSING = object()


def text(found: Any) -> bool:
    """A string."""
    return isinstance(found, str)


def flag(found: Any) -> bool:
    """True or False."""
    return isinstance(found, bool)


def finite(found: Any) -> bool:
    """Any number but infinity and NaN."""
    return isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found)


def number(found: Any) -> bool:
    """A finite number that is not negative."""
    return finite(found) and found >= 0


def whole(found: Any) -> bool:
    """A whole number that is not negative."""
    return isinstance(found, int) and number(found)


def positive(found: Any) -> bool:
    """A whole number from 1 on."""
    return whole(found) and found > 0


def optional(check: Check) -> Check:
    """None, or what passes the check."""
    return lambda found: found is None or check(found)


def maybe(check: Check) -> Check:
    """What passes the check, where it is there at all."""
    return lambda found: found is _MISSING or check(found)


def record(of: Fields) -> Check:
    """A mapping with such fields."""
    return lambda found: isinstance(found, dict) and not wrong(found, of)


def listed(check: Check) -> Check:
    """A list whose values all pass the check."""
    return lambda found: isinstance(found, list) and all(map(check, found))


def table(check: Check) -> Check:
    """A mapping whose values all pass the check."""
    return lambda found: isinstance(found, dict) and all(map(check, found.values()))


def wrong(found: Mapping[str, Any], expected: Fields) -> list[str]:
    """The names of missing and impossible values."""
    return [name for name, check in expected.items() if not check(found.get(name, _MISSING))]
