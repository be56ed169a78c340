"""Modules that are built alike are captured once in a process, and PyTorch prepares for that once: both take most of
the time of opening a tiny one.
"""

from __future__ import annotations

import functools
import types
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_impls import op_implementations_dict as rules
from torch.export import exported_program
from torch.utils import _pytree as pytree

from retouch.frontend.capture import Captured

Capture = Callable[[nn.Module, Sequence[Any], dict[str, Any]], Captured]
MOST = 64
"""Captures that are kept."""
PLAIN = (type(None), bool, int, float, complex, str, bytes, type, torch.dtype, torch.device, types.ModuleType)
KNOWN = ("diffusers.", "peft.", "transformers.")
"""Where objects come from that are what their attributes say."""


class Itself:
    """Equal to nothing else; what it holds lives as long."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Itself) and other.held is self.held

    def __hash__(self) -> int:
        return id(self.held)


def remembered(capture: Capture) -> Capture:
    """`capture` that returns what it made of a module built alike, for arguments alike, with these arguments.

    A capture names the parameters of its module and does not hold them. Modules are alike that have the same types,
    attributes, forms of parameters and values of other tensors.
    """
    known: OrderedDict[Any, Captured] = OrderedDict()

    def call(module: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> Captured:
        flat, spec = pytree.tree_flatten((tuple(args), kwargs))
        given = tuple(_form(each) if isinstance(each, Tensor) else _content(each, {}) for each in flat)
        key = _content(module, {}), given, spec
        found = known.pop(key, None) or capture(module, args, kwargs)
        known[key] = found
        if len(known) > MOST:
            known.popitem(last=False)
        return replace(found, inputs=tuple(flat))

    return call


def _form(tensor: Tensor) -> Any:
    return type(tensor), tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device


def _content(found: Any, seen: dict[int, int]) -> Any:
    """Something hashable that equals that of what is alike."""
    if isinstance(found, PLAIN):
        return type(found), found
    if id(found) in seen:
        return "again", seen[id(found)]
    seen[id(found)] = len(seen)
    if isinstance(found, nn.Parameter):
        return _form(found)
    if isinstance(found, Tensor) and found.is_meta:
        return Itself(found)
    if isinstance(found, Tensor):
        return _form(found), found.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(found, Mapping):
        return type(found), tuple((_content(name, seen), _content(each, seen)) for name, each in found.items())
    if isinstance(found, list | tuple):
        return type(found), tuple(_content(each, seen) for each in found)
    if isinstance(found, set | frozenset):
        return type(found), frozenset(_content(each, seen) for each in found)
    if isinstance(found, functools.partial):
        return functools.partial, _content((found.func, found.args, found.keywords), seen)
    if isinstance(found, types.MethodType):
        return types.MethodType, found.__func__, _content(found.__self__, seen)
    if isinstance(found, nn.Module) or (type(found).__module__.startswith(KNOWN) and hasattr(found, "__dict__")):
        return type(found), _content(vars(found), seen)
    return Itself(found)


def prepared() -> None:
    """Let `torch.export` prepare once for what it does at the end of every export, which takes 0.14 s: look for all
    operations that are made of others, and tell each to stay whole. Nor does it note where each operation was called
    from, which nobody reads.
    """
    torch.fx.config.do_not_emit_stack_traces = True
    exported_program._collect_all_valid_cia_ops = _found_once(exported_program._collect_all_valid_cia_ops)
    exported_program._override_composite_implicit_decomp = _patched_again(
        exported_program._override_composite_implicit_decomp
    )


def _found_once(find: Callable[[], Iterable[Any]]) -> Callable[[], Iterable[Any]]:
    """`find`, as long as no others are registered."""
    found: dict[Any, Iterable[Any]] = {}

    def call() -> Iterable[Any]:
        key = tuple(torch._C._dispatch_get_registrations_for_dispatch_key("CompositeImplicitAutograd"))
        return found[key] if key in found else found.setdefault(key, find())

    return call


def _patched_again(patch: Callable[[dict[Any, Any]], Any]) -> Callable[[dict[Any, Any]], Any]:
    """`patch`, a context manager that gives operations other kernels, which gives them the same the next time."""
    known: dict[Any, Any] = {}

    @contextmanager
    def call(given: dict[Any, Any]) -> Iterator[None]:
        key = frozenset(given.items())
        if key not in known:
            before = {op: dict(op.py_kernels) for op in given}
            with patch(given):
                kernels = {op: dict(op.py_kernels.items() - before[op].items()) for op in given}
                known[key] = kernels, {op: rules[op] for op in given}
                yield
            return
        kernels, own = known[key]
        before = {op: dict(op.py_kernels) for op in given}
        try:
            for op, others in kernels.items():
                op.py_kernels.update(others)
                op._dispatch_cache.clear()
            rules.update(own)
            yield
        finally:
            for op, others in before.items():
                op.py_kernels.clear()
                op.py_kernels.update(others)
                op._dispatch_cache.clear()
                rules.pop(op, None)

    return call
