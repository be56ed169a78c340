"""The driver of lowering: one node after the other, each by its rule or, where that cannot be, densely."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count

import torch
from torch.fx import Node

from retouch.frontend.capture import Captured
from retouch.frontend.lowering import joint
from retouch.frontend.lowering.context import IDENTITIES, ROW_DTYPES, RULES, Context, Item, NoRule
from retouch.frontend.lowering.pending import PENDING, Joint
from retouch.ir.geometry import Grid
from retouch.ir.layout import Layout, LayoutError, Ref, image
from retouch.ir.program import Output, Program
from retouch.ir.value import Value
from retouch.ir.verify import verify

SKIPPED = (
    "aten._assert_tensor_metadata.default",
    "aten._assert_scalar.default",
    "aten.sym_constrain_range_for_size.default",
)


def lower(
    captured: Captured, dtypes: Collection[torch.dtype] = ROW_DTYPES, layouts: Mapping[int, Layout] | None = None
) -> Program:
    """The rows program of a captured module, before fusion; `dtypes` are those that kernels take.

    layouts: by number, of inputs that are rows without being images. Raises LayoutError where one does not fit.
    """
    context = Context(captured, dtypes)
    given: dict[Value, Ref] = {}
    inputs: list[Value] = []
    constants = {}
    outputs: tuple[Output, ...] = ()
    numbers = count()
    for node in captured.graph.nodes:
        if node.op == "placeholder":
            if node in captured.constants:
                value = context.dense_value(node)
                constants[value] = captured.constants[node]
                context.constant.add(value)
                context.items[node] = value
                continue
            layout = (layouts or {}).get(next(numbers))
            if layout is None:
                item = _placeholder(context, node)
                inputs.append(item.value if isinstance(item, Ref) else item)
                context.items[node] = item
                continue
            found = _laid_out(context, node, layout)
            given |= {ref.value: ref for ref in found}
            inputs += [ref.value for ref in found]
            context.items[node] = found[0] if len(found) == 1 else Joint(tuple(found), layout.dims.index("hw"))
        elif node.op == "call_function":
            if str(node.target) not in SKIPPED:
                context.items[node] = lower_node(context, node)
        elif node.op == "output":
            outputs = tuple(_output(context, argument) for argument in node.args[0])
    return verify(Program(tuple(inputs), constants, tuple(context.ops), outputs, given), "lowering")


def lower_node(context: Context, node: Node) -> Item:
    """What a node becomes."""
    if node.target is operator.getitem:
        source = context.item(node.args[0])
        return context.dense(node) if isinstance(source, Value) else source[node.args[1]]
    inputs = [context.items[n] for n in node.all_input_nodes]
    flat = [x for item in inputs for x in (item if isinstance(item, list | tuple) else [item])]
    if not any(isinstance(x, (Ref, *PENDING)) for x in flat):
        return context.dense(node)
    name = str(node.target)
    if name in IDENTITIES:
        return inputs[0]
    found = RULES.get(name)
    if found is None:
        return context.dense(node, f"no rule for {name}")
    mark = len(context.ops)
    try:
        if any(isinstance(x, Joint) for x in flat) and joint.is_apart(node, flat):
            return joint.distribute(context, node, partial(lower_node, context))
        return found(context, node)
    except (NoRule, LayoutError) as error:
        context.forget(mark)
        return context.dense(node, f"{name}: {error}")


def _placeholder(context: Context, node: Node) -> Ref | Value:
    meta = node.meta.get("val")
    spatial = (
        isinstance(meta, torch.Tensor)
        and meta.dim() == 4
        and meta.dtype in context.dtypes
        and meta.shape[2] * meta.shape[3] > 1
    )
    if not spatial:
        return context.dense_value(node)
    batch, channels, height, width = meta.shape  # type: ignore[union-attr]
    return image(context.value(node, Grid(height, width), batch, channels))


def _laid_out(context: Context, node: Node, layout: Layout) -> list[Ref]:
    """The rows of every picture in an input."""
    meta, found = node.meta["val"], []
    if meta.dtype not in context.dtypes:
        raise LayoutError(f"rows are not {meta.dtype}")
    for part, tensor in zip(layout.parts, layout.split(meta), strict=True):
        value = context.value(node, part.grid, *part.batch_and_channels(tensor.shape))
        found.append(part.of(replace(value, shape=tuple(tensor.shape))))
    return found


def _output(context: Context, argument: object) -> Output:
    if not isinstance(argument, Node):
        return Output(None, constant=argument)
    item = context.items[argument]
    if isinstance(item, PENDING):
        item = context.made(argument, "" if isinstance(item, Joint) else "returned")
    if isinstance(item, Ref):
        with suppress(NoRule):  # a mixed layout can be returned; only reading it as rows needs a rule
            item = context.regular(item)
        return Output(item.value, item)
    return Output(item)
