"""The kernels that there are, and their arguments as a backend takes them."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from retouch import ops
from retouch.ir.expr import Instr
from retouch.ops.gemm import Packed
from retouch.ops.spec import KernelSpec

if TYPE_CHECKING:
    from retouch.kernels.protocol import Backend


def _collected() -> dict[str, KernelSpec]:
    modules = [import_module(f"{ops.__name__}.{module.name}") for module in iter_modules(ops.__path__)]
    found = dict.fromkeys(x for module in modules for x in vars(module).values() if isinstance(x, KernelSpec))
    named = {spec.name: spec for spec in found}
    assert len(named) == len(found), "two kernels have one name"
    return named


SPECS = _collected()
"""Every `KernelSpec` in the files of `retouch.ops`, by name."""


def handles(backend: Backend, argument: Any) -> Any:
    """An argument of a reference kernel as kernels of the backend take it."""
    if isinstance(argument, Tensor):
        return backend.index(argument.numpy()) if argument.dtype == torch.int32 else backend.rows(argument)
    if isinstance(argument, Packed):
        return backend.pack(argument.weight, argument.groups)
    if isinstance(argument, tuple) and argument and isinstance(argument[0], Instr):
        return backend.program(argument)
    if isinstance(argument, tuple | list):
        return type(argument)(handles(backend, each) for each in argument)
    return argument
