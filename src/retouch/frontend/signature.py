"""Arguments of the module's forward: bound by name, flattened, checked against the example inputs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from retouch.errors import RetouchError
from retouch.ir.layout import Layout

BFLOAT16_EXPONENT = 0x7F80
"""Bits that are all set in infinities and NaN."""


class InputError(RetouchError, ValueError, TypeError):
    """Arguments differ from the example inputs in what a recording cannot follow."""


class Signature:
    """Arguments of the module's forward as one flat list in the order of the example inputs."""

    def __init__(
        self,
        module: nn.Module,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        layouts: Mapping[str, Layout] | None = None,
    ) -> None:
        self.forward = inspect.signature(module.forward)
        kinds = {p.kind for p in self.forward.parameters.values()}
        self.named = not kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY}
        self.example = self.canonical(args, kwargs)
        self.leaves, self.spec = pytree.tree_flatten(self.example)
        self.names = [pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path(self.example)[0]]
        self.layouts = {self.number(name): layout for name, layout in (layouts or {}).items()}

    def number(self, argument: str) -> int:
        """The place of a tensor among the flat arguments by its name in `forward`; InputError when there is none."""
        name = f"[1][{argument!r}]"
        if name not in self.names:
            raise InputError(f"there is no argument {argument!r} that is a tensor; there are {', '.join(self.names)}")
        return self.names.index(name)

    def canonical(self, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments by name, without those equal to their default."""
        if not self.named:
            return tuple(args), dict(kwargs)
        try:
            bound = self.forward.bind(*args, **kwargs)
        except TypeError as error:
            raise InputError(f"arguments do not fit the module's forward: {error}") from None
        given: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            parameter = self.forward.parameters[name]
            if parameter.kind == inspect.Parameter.VAR_KEYWORD:
                given.update(value)
            elif not _is_default(value, parameter.default):
                given[name] = value
        return (), given

    def flatten(self, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
        """Flat arguments, those of several pictures as one for each.

        InputError when they differ from the example in kind, shape, dtype or device.
        """
        positional, named = self.canonical(args, kwargs)
        if set(named) == set(self.example[1]):
            named = {k: named[k] for k in self.example[1]}
        leaves, spec = pytree.tree_flatten((positional, named))
        if spec != self.spec:
            raise InputError(
                f"arguments {_names(positional, named)} differ from the example's {_names(*self.example)}; "
                "compile again for other arguments"
            )
        for name, leaf, example in zip(self.names, leaves, self.leaves, strict=True):
            _check_leaf(name, leaf, example)
        return [part for number, leaf in enumerate(leaves) for part in self._parts(number, leaf)]

    @property
    def inputs(self) -> list[str]:
        """The names of all inputs of the program; pictures in one argument share its name."""
        return [self.names[n] for n, leaf in enumerate(self.leaves) for _ in self._parts(n, leaf)]

    def _parts(self, number: int, leaf: Any) -> tuple[Any, ...]:
        return self.layouts[number].split(leaf) if number in self.layouts else (leaf,)


def _is_default(value: Any, default: Any) -> bool:
    return value is default or (isinstance(value, bool | int | float | str) and value == default)


def _names(positional: Sequence[Any], named: dict[str, Any]) -> str:
    return f"({', '.join([*(['...'] if positional else []), *named])})"


def _check_leaf(name: str, leaf: Any, example: Any) -> None:
    if not isinstance(example, Tensor):
        if not same_tensor(leaf, example):
            raise InputError(
                f"argument {name} is {leaf!r}; it was {example!r} when compiled and is fixed; compile again"
            )
        return
    if not isinstance(leaf, Tensor):
        raise InputError(f"argument {name} is a {type(leaf).__name__}; the example was a tensor")
    for what in ("shape", "dtype", "device"):
        found, expected = getattr(leaf, what), getattr(example, what)
        if found != expected:
            shown = (list(found), list(expected)) if what == "shape" else (found, expected)
            raise InputError(f"argument {name} has {what} {shown[0]}; compiled for {shown[1]}")
    if leaf.is_floating_point() and not _is_finite(leaf.detach()):
        raise InputError(f"argument {name} holds NaN or infinite numbers")


def _is_finite(tensor: Tensor) -> bool:
    """Whether there is no NaN and no infinity. By NumPy on the host: PyTorch takes five passes, each in several threads
    that wait for each other, beside a busy program longer than an update takes.
    """
    if tensor.device.type != "cpu":
        return bool(torch.isfinite(tensor).all())
    if tensor.dtype == torch.bfloat16:
        return not ((tensor.view(torch.int16).numpy() & BFLOAT16_EXPONENT) == BFLOAT16_EXPONENT).any()
    return bool(np.isfinite(tensor.numpy()).all())


def same_tensor(a: Any, b: Any) -> bool:
    """Equality of content and dtype."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    return type(a) is type(b) and bool(a == b)
