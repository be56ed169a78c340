"""Programs as plain data and back: lists, numbers, names and arrays. Nothing in them is run.

Every object is written once, after those that it is made of, as the name of its class and its fields; others refer to
it by number. Classes are those of the IR and its operations, functions those of `retouch.ops.dense`.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

import retouch.frontend.lowering  # noqa: F401  (names functions)
from retouch.ir.expr import Instr
from retouch.ir.geometry import AxisMap, Geometry, Grid
from retouch.ir.layout import Atom, Ref
from retouch.ir.program import Op, Output, Program
from retouch.ir.value import Matrix, Value, Weight
from retouch.ir.verify import VerificationError, verify
from retouch.ops.dense import Arg, Strided, function_named, name_of

_PARTS = Program, Output, Value, Grid, Ref, Atom, Matrix, Weight, Geometry, Instr, Arg, Strided
_PLAIN = (type(None), bool, int, float, str)
_NAMED = (torch.dtype, torch.layout, torch.memory_format)


def to_data(program: Program) -> tuple[list[Any], dict[str, Tensor]]:
    """A program as objects for JSON, and the arrays that they name; ValueError where something in it is no data."""
    writer = _Writer()
    writer.of(program)
    return writer.objects, writer.arrays


def from_data(objects: Any, arrays: Mapping[str, Tensor]) -> Program:
    """The program that data say; ValueError when they say none. What it computes is not looked into."""
    made: list[Any] = []
    try:
        for name, *content in objects:
            made.append(_made(name, [_read(x, made, arrays) for x in content]))
        if not isinstance(made[-1], Program):
            raise ValueError(f"the last object is a {type(made[-1]).__name__}, no program")
        return verify(made[-1], "reading")
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, VerificationError) as error:
        raise ValueError(f"no program: {error}") from error


class _Writer:
    def __init__(self) -> None:
        self.objects: list[Any] = []
        self.arrays: dict[str, Tensor] = {}
        self._numbers: dict[Any, int] = {}

    def of(self, x: Any) -> Any:
        if type(x) in _PLAIN:
            return x
        if isinstance(x, tuple):
            return [self.of(each) for each in x]
        if isinstance(x, list):
            return {"list": [self.of(each) for each in x]}
        if isinstance(x, Mapping):
            return {"dict": [[self.of(key), self.of(value)] for key, value in x.items()]}
        if isinstance(x, _NAMED):
            return {"torch": str(x).removeprefix("torch.")}
        if isinstance(x, torch.device):
            return {"device": str(x)}
        if isinstance(x, np.ndarray):
            return {"array": self._array(x)}
        if isinstance(x, AxisMap):
            return self._object(x, "AxisMap", lambda: [x.table, x.inputs])
        kind, hints = _classes().get(type(x).__name__, (None, {}))
        if type(x) is kind:
            return self._object(id(x), kind.__name__, lambda: [getattr(x, name) for name in hints])
        if callable(x):
            return {"function": name_of(x)}
        raise ValueError(f"a {type(x).__name__} is no plain data")

    def _object(self, key: Any, name: str, parts: Callable[[], list[Any]]) -> dict[str, int]:
        if key not in self._numbers:
            self.objects.append([name, *map(self.of, parts())])
            self._numbers[key] = len(self.objects) - 1
        return {"object": self._numbers[key]}

    def _array(self, x: Any) -> str:
        name = f"array {len(self.arrays)}"
        self.arrays[name] = torch.from_numpy(np.ascontiguousarray(x))
        return name


def _read(x: Any, made: list[Any], arrays: Mapping[str, Tensor]) -> Any:
    """The inverse of `_Writer.of`."""
    if isinstance(x, list):
        return tuple(_read(each, made, arrays) for each in x)
    if not isinstance(x, dict):
        return x
    ((kind, content),) = x.items()
    match kind:
        case "object" if content >= 0:
            return made[content]
        case "list":
            return [_read(each, made, arrays) for each in content]
        case "dict":
            return {_read(key, made, arrays): _read(value, made, arrays) for key, value in content}
        case "torch" if isinstance(found := getattr(torch, content), _NAMED):
            return found
        case "device":
            return torch.device(content)
        case "array":
            return arrays[content].numpy()
        case "function":
            return function_named(content)
    raise ValueError(f"{kind} {content}")


def _made(name: str, given: list[Any]) -> Any:
    """An object of a class by its name, if each of its fields has the type that it should."""
    if name == "AxisMap":
        return AxisMap(*given)
    kind, hints = _classes()[name]
    for (field, hint), value in zip(hints.items(), given, strict=True):
        if not _fits(value, hint):
            raise ValueError(f"{field} of a {name} is no {type(value).__name__}")
    return kind(*given)


@cache
def _classes() -> dict[str, tuple[type[Any], dict[str, Any]]]:
    """Classes by name, with the fields that their objects are made of and the types of these."""
    return {kind.__name__: (kind, _hints(kind)) for kind in (*_PARTS, *_operations(Op))}


def _operations(kind: type[Any]) -> Iterator[type[Any]]:
    """The operations of this package."""
    for each in kind.__subclasses__():
        if each.__module__.startswith("retouch.ops."):
            yield each
            yield from _operations(each)


def _hints(kind: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind) if field.init}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type; what functions take and return, and keys of mappings, are not told."""
    if hint is Any or (hint is float and isinstance(value, int)):
        return True
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        wanted = parts[:1] * len(value) if parts[1:] == (...,) else parts
        return len(value) == len(wanted) and all(map(_fits, value, wanted))
    return isinstance(value, origin or hint)
