"""From a module to an ATen graph: `torch.export`, with references to the live parameters."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock, RLock
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.utils._pytree as pytree
from torch import nn
from torch.export.graph_signature import InputKind
from torch.fx import Graph, Node

from retouch.errors import RetouchError


class CaptureError(RetouchError, RuntimeError):
    """The module cannot be captured; the text says why and what to do."""


@dataclass(frozen=True, eq=False)
class Captured:
    """A captured module.

    `constants` name the parameters, buffers and literals that placeholders stand for; `literals` hold those
    that are no attribute of the module. Flat inputs and outputs follow the two pytree specs.
    """

    graph: Graph
    constants: dict[Node, str]
    literals: dict[str, torch.Tensor]
    inputs: tuple[Any, ...]
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec


_in_use: WeakKeyDictionary[nn.Module, RLock] = WeakKeyDictionary()
_making = Lock()


def in_use(module: nn.Module) -> RLock:
    """Held by whoever runs a module or looks at its tensors: while it is captured, others are in their place."""
    with _making:
        return _in_use.setdefault(module, RLock())


def capture(module: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> Captured:
    """Export `module` for the example arguments; raises CaptureError when it cannot be expressed as a graph."""
    if module.training:
        raise CaptureError("the module is in training mode; call .eval() first")
    try:
        with in_use(module), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.export(module, tuple(args), kwargs, strict=False).run_decompositions({})
    except Exception as error:
        raise CaptureError(_explain(error)) from error
    signature = exported.graph_signature
    if signature.buffers_to_mutate or signature.user_inputs_to_mutate:
        changed = [*signature.buffers_to_mutate.values(), *signature.user_inputs_to_mutate.values()]
        raise CaptureError(f"the module changes its buffers or inputs in place ({', '.join(changed)}); not supported")
    constants, literals = {}, {}
    kinds = {spec.arg.name: spec for spec in signature.input_specs}
    for node in exported.graph.nodes:
        spec = kinds.get(node.name) if node.op == "placeholder" else None
        if spec is None or spec.kind == InputKind.USER_INPUT:
            continue
        if spec.kind == InputKind.CONSTANT_TENSOR or spec.target not in exported.state_dict:
            literals[spec.target] = exported.constants[spec.target]
        constants[node] = spec.target
    flat, in_spec = pytree.tree_flatten((tuple(args), kwargs))
    out_spec = exported.call_spec.out_spec
    return Captured(exported.graph, constants, literals, tuple(flat), in_spec, out_spec)


def _explain(error: Exception) -> str:
    text = str(error).strip()
    first = text.splitlines()[0] if text else type(error).__name__
    name = type(error).__name__
    if "data-dependent" in text.lower() or "GuardOnDataDependent" in name:
        return (
            "control flow depends on tensor data, so one graph cannot stand for the module: "
            f"{first}. Compile the parts around it (a U-Net, a decoder) instead."
        )
    return f"torch.export failed ({name}): {first}"
