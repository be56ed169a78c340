"""Layers folded into one, so that reading never searches more than a few of them.

The layers above a recording are kept as a log-structured merge tree keeps its runs (O'Neil et al., 1996): once there
are more than `MOST`, the newest ones become one, and older ones join it as long as they are not much larger than what
is above them. So a row is copied a few times in all, however many updates follow.
"""

from __future__ import annotations

from collections.abc import Sequence

from retouch.ir.value import Value
from retouch.runtime.state.layers import Form, Layer, memories, name_of
from retouch.runtime.state.workspace import LayeredOwner
from retouch.runtime.store import Store

MOST = 6
"""Layers that a snapshot may have above its recording."""

GROWTH = 2
"""A layer is folded with those above it while it is not larger than so many times all of them."""


def few(net: LayeredOwner, store: Store, layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """The same rows in a base and at most `MOST` layers; StoreError when there is no room for a folded one."""
    if len(layers) <= MOST + 1:
        return layers
    start, above = len(layers) - 1, layers[-1].nbytes
    while start > 1 and (len(layers) - start < MOST or layers[start - 1].nbytes <= GROWTH * above):
        start -= 1
        above += layers[start].nbytes
    return (*layers[:start], folded(net, store, layers[start:]))


def folded(net: LayeredOwner, store: Store, layers: Sequence[Layer]) -> Layer:
    """One layer with what is to be seen of several, which are in the order of their age."""
    holders: dict[Value, list[Layer]] = {}
    for layer in layers:
        for value in layer.tables:
            holders.setdefault(value, []).append(layer)
    merged = {v: net.workspace.merged(tuple(layer.tables[v] for layer in found)) for v, found in holders.items()}
    types = {value: found[0].rows(value).dtype for value, found in holders.items()}
    states = {slot: layer.state(slot) for layer in layers for slot in layer.slots}
    form = Form({value: table for value, (table, _) in merged.items()}, states, types)
    block = store.block(form.layout, {}, memories=memories(net.backend))
    for value, (_, places) in merged.items():
        for place, layer in zip(places, holders[value], strict=True):
            target = block.tensors[name_of(value)]
            target.index_copy_(0, place.to(target.device), layer.rows(value).to(target.device))
    dense = {value: content for layer in layers for value, content in layer.dense.items()}
    for slot, tensor in states.items():
        block.tensors[name_of(slot)].copy_(tensor)
    return Layer(form.tables, dense, form.slots, block)
