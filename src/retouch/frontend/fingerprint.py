"""What a module calls for its example inputs, without computing it: the same calls are captured as the same graph.

The module runs once on tensors that have shapes and no content. What it calls of PyTorch, with which arguments, says
everything that its graph depends on: its classes and their source, its configuration, hooks, adapters, functions that
somebody replaced, the values of arguments. What cannot be followed so is no failure: it has no digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_PLAIN = (
    type(None), bool, int, float, complex, str, slice, type(...), np.generic,
    torch.dtype, torch.device, torch.layout, torch.memory_format,
)  # fmt: skip
"""Arguments whose text says all of them."""

_TENSORS = (Tensor, nn.Parameter, nn.Buffer)
_META = torch.device("meta")


class Unfollowed(Exception):
    """What a module does cannot be told from its calls; the text says why."""


@dataclass(frozen=True)
class Fingerprint:
    """Of all calls a digest; how the outputs are put together; what has content: parameters and buffers by name, and
    other tensors in the order in which they are read.
    """

    digest: str
    out_spec: pytree.TreeSpec
    tensors: dict[str, Tensor]


def fingerprint(module: nn.Module, args: Sequence[Any], kwargs: dict[str, Any], device: torch.device) -> Fingerprint:
    """Run a module on tensors without content, in place of those of `device`. Unfollowed for any failure.

    The module's attributes and the state of random numbers are afterwards what they were.
    """
    follower = _Follower(device)
    try:
        if any(torch.is_autocast_enabled(kind) for kind in ("cpu", device.type)):
            raise Unfollowed("types are chosen by autocast")
        if any(_is_compiled(each) for each in module.modules()):
            raise Unfollowed("a part of the module is compiled by PyTorch")
        for kind in (module.named_parameters, module.named_buffers):
            follower.names(kind(remove_duplicate=False))
        leaves, spec = pytree.tree_flatten((tuple(args), kwargs))
        given = [follower.input(leaf, number) for number, leaf in enumerate(leaves)]
        positional, named = pytree.tree_unflatten(given, spec)
        with _kept(module), _exporting(), torch.random.fork_rng([]), torch.no_grad(), follower:
            out = module(*positional, **named)
        if follower.failure:
            raise follower.failure
        outputs, out_spec = pytree.tree_flatten(out)
        follower.note("returned", [follower.argument(each)[0] for each in outputs])
    except Unfollowed:
        raise
    except Exception as error:
        raise Unfollowed(f"{type(error).__name__}: {error}") from error
    return Fingerprint(follower.digest.hexdigest(), out_spec, follower.tensors)


class _Follower(TorchFunctionMode):
    """Notes calls, and makes them with tensors without content, each known by its name or its number.

    tensors: those with content, by name. failure: of a call, though the module may have gone on without its result.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.digest = hashlib.blake2b(digest_size=16)
        self.tensors: dict[str, Tensor] = {}
        self.failure: Exception | None = None
        self._facts = _facts(device)
        self._empty: dict[int, Tensor] = {}
        self._known: dict[int, Any] = {}
        self._held: list[Tensor] = []
        self._read: list[Any] = []
        self._results: dict[str, tuple[Any, ...]] = {}
        self.note(str(device), torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled())

    def note(self, *what: Any) -> None:
        self.digest.update(repr((what, self._read)).encode())
        self._read.clear()

    def names(self, named: Iterable[tuple[str, Tensor]]) -> None:
        """Tensors of the module, by their names."""
        for name, tensor in named:
            if id(tensor) not in self._empty:
                self._with_content(tensor, name, name)
            self.tensors[name] = tensor
            self.note(name, self.argument(tensor)[0])

    def input(self, leaf: Any, number: int) -> Any:
        """A leaf of the module's arguments, as it is to be given."""
        if isinstance(leaf, Tensor):
            return self._replaced(leaf, f"input {number}")
        self.note("input", number, self.argument(leaf)[0])
        return leaf

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self._facts:
            return self._facts[func]
        try:
            return self._made(func, args, kwargs or {})
        except Exception as error:
            self.failure = error
            raise

    def _made(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """The result of a call, which is noted; its shape is found once for all calls that differ in tensors alone."""
        name = _name(func)
        given = [self.argument(x, name) for x in args]
        named = {key: self.argument(x, "to") for key, x in kwargs.items()}
        call = repr((name, [text for text, _ in given], [(key, text) for key, (text, _) in named.items()]))
        self.note(call)
        if call in self._results:
            size, stride, dtype = self._results[call]
            return self._result(torch.empty_strided(size, stride, dtype=dtype, device=_META))
        result = func(*(x for _, x in given), **{key: x for key, (_, x) in named.items()})
        if isinstance(result, Tensor) and result.is_meta and id(result) not in self._known and not result._is_view():
            self._results[call] = result.shape, result.stride(), result.dtype
        return self._result(result)

    def argument(self, x: Any, name: str = "") -> tuple[Any, Any]:
        """What says all of an argument but which tensors are in it, and what stands for it in a call."""
        if isinstance(x, Tensor):
            if not x.is_meta:
                x = self._empty[id(x)] if id(x) in self._empty else self._with_content(x, f"{len(self.tensors)}")
            if id(x) not in self._known:
                raise Unfollowed("a tensor comes from what is no call of PyTorch")
            self._read.append(self._known[id(x)])
            return (tuple(x.shape), x.stride(), x.dtype), x
        if isinstance(x, list | tuple):
            pairs = [self.argument(each) for each in x]
            parts = [part for _, part in pairs]
            return (type(x).__name__, [text for text, _ in pairs]), parts if isinstance(x, list) else type(x)(parts)
        if isinstance(x, dict):
            found = {key: self.argument(each) for key, each in x.items()}
            return [(key, text) for key, (text, _) in found.items()], {key: part for key, (_, part) in found.items()}
        if not isinstance(x, _PLAIN):
            raise Unfollowed(f"{name or 'the module'} is given a {type(x).__name__}")
        is_device = isinstance(x, torch.device) or (isinstance(x, str) and name.endswith("to") and _is_device(x))
        return x, _META if is_device else x

    def _with_content(self, x: Tensor, name: str, label: Any = None) -> Tensor:
        """What stands for a tensor from now on; without a label its content says what it is."""
        self.tensors[name] = x
        self._held.append(x)
        self._empty[id(x)] = self._replaced(x, label or (name, _content(x)))
        return self._empty[id(x)]

    def _replaced(self, x: Tensor, label: Any) -> Tensor:
        """A tensor without content for one that has some."""
        if type(x) not in _TENSORS or x.layout != torch.strided:
            raise Unfollowed(f"a tensor is a {type(x).__name__}, {x.layout}")
        empty = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=_META, requires_grad=x.requires_grad)
        return self._known_as(empty, label)

    def _known_as(self, x: Tensor, label: Any) -> Tensor:
        self._held.append(x)
        self._known[id(x)] = label
        return x

    def _result(self, x: Any) -> Any:
        """A result with what stands for the tensors in it."""
        if isinstance(x, Tensor):
            if not x.is_meta:
                x = self._replaced(x, (len(self._known), str(x.device)))
            elif id(x) not in self._known:
                self._known_as(x, len(self._known))
            self.note(tuple(x.shape), x.stride(), x.dtype)
            return x
        if type(x) in (list, tuple):
            return type(x)(map(self._result, x))
        if isinstance(x, tuple) and any(isinstance(each, Tensor) for each in x):  # with names, as of topk
            for each in x:
                self._result(each)
        return x


def _facts(device: torch.device) -> dict[Any, Any]:
    """What tensors without content would tell otherwise."""
    found = {"device": device, "is_cuda": device.type == "cuda", "is_cpu": device.type == "cpu", "is_meta": False}
    return {getattr(Tensor, name).__get__: value for name, value in found.items()}


def _name(func: Any) -> str:
    """The name of a function of PyTorch, which its version says all of."""
    owner = getattr(func, "__self__", None) if func.__name__ == "__get__" else None
    module = getattr(func, "__module__", None) or "torch"
    if module.split(".")[0] not in ("torch", "builtins"):
        raise Unfollowed(f"{module}.{func.__name__} is no function of PyTorch")
    name = getattr(func, "__qualname__", str(func))
    return f"{module}.{getattr(owner, '__name__', '')}.{name}"


def _content(x: Tensor) -> str:
    """Where a tensor is, and what its bytes are."""
    flat = x.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return f"{x.device} {hashlib.blake2b(flat.numpy().tobytes(), digest_size=16).hexdigest()}"


def _is_device(text: str) -> bool:
    return text.split(":")[0] in ("cpu", "cuda", "mps", "xpu")


def _is_compiled(module: nn.Module) -> bool:
    return module._compiled_call_impl is not None or type(module).__name__ == "OptimizedModule"


@contextmanager
def _exporting() -> Iterator[None]:
    """Code that asks whether it is captured is told so."""
    flags = torch.compiler._is_compiling_flag, torch.compiler._is_exporting_flag
    torch.compiler._is_compiling_flag = torch.compiler._is_exporting_flag = True
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag, torch.compiler._is_exporting_flag = flags


@contextmanager
def _kept(module: nn.Module) -> Iterator[None]:
    """Put attributes of modules back that a call changed. Unfollowed where there are such, as another call, which
    finds them, may do something else.
    """
    found = [(table, dict(table)) for each in module.modules() for table in _tables(each)]
    lists = [(value, list(value)) for _, table in found for value in table.values() if type(value) is list]
    changed = False
    try:
        yield
    finally:
        for table, before in found:
            if not _same(table, before):
                table.clear()
                table.update(before)
                changed = True
        for values, elements in lists:
            if list(map(id, values)) != list(map(id, elements)):
                values[:] = elements
                changed = True
    if changed:
        raise Unfollowed("a call changes attributes of the module")


def _tables(module: nn.Module) -> list[dict[str, Any]]:
    own = vars(module)
    return [own, *(value for value in own.values() if isinstance(value, dict))]


def _same(table: dict[str, Any], before: dict[str, Any]) -> bool:
    return table.keys() == before.keys() and all(table[key] is before[key] for key in before)
