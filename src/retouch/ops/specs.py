"""The kernels that there are."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from retouch import ops
from retouch.ops.spec import KernelSpec


def _collected() -> dict[str, KernelSpec]:
    modules = [import_module(f"{ops.__name__}.{module.name}") for module in iter_modules(ops.__path__)]
    found = dict.fromkeys(x for module in modules for x in vars(module).values() if isinstance(x, KernelSpec))
    named = {spec.name: spec for spec in found}
    assert len(named) == len(found), "two kernels have one name"
    return named


SPECS = _collected()
"""Every `KernelSpec` in the files of `retouch.ops`, by name."""
