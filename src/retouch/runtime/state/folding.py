"""Layers folded into one, so that reading never searches more than a few of them.

The layers above a recording are kept as a log-structured merge tree keeps its runs (O'Neil et al., 1996): once there
are more than `MANY`, the newest ones become one, and older ones join it as long as they are not much larger than what
is above them. So a row is copied a few times in all, however many updates follow. That takes as long as several
updates, so whoever makes these does it when nothing else is to be done; an update folds only beyond `MOST`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from retouch.kernels import Backend
from retouch.kernels.tensors import Index
from retouch.runtime.base import Copy
from retouch.runtime.state.form import Folding, Stack, name_of
from retouch.runtime.state.layers import Layer, carved, laid
from retouch.runtime.state.workspace import LayeredOwner
from retouch.runtime.store import Store

MANY, MOST = 12, 24
"""Layers above a recording from which on some are to be folded, and which no update leaves more than."""

GROWTH = 2
"""A layer is folded with those above it while it is not larger than so many times all of them."""


def fewer(net: LayeredOwner, store: Store, layers: tuple[Layer, ...], stack: Stack) -> tuple[Layer, ...]:
    """The same rows in a base and fewer layers, the newest `MANY` as one; StoreError when there is no room for that."""
    start, above = len(layers) - 1, layers[-1].nbytes
    while start > 1 and (len(layers) - start < MANY or layers[start - 1].nbytes <= GROWTH * above):
        start -= 1
        above += layers[start].nbytes
    return (*layers[:start], folded(net, store, layers[start:], net.workspace.folding(stack, start)))


def folded(net: LayeredOwner, store: Store, layers: Sequence[Layer], folding: Folding) -> Layer:
    """One layer with what is to be seen of several, which are in the order of their age."""
    backend, form = net.backend, folding.form
    made = laid(backend, store, form, {value: content for layer in layers for value, content in layer.dense.items()})
    if all(layer.on_device(backend) for layer in (made, *layers)):
        copies = folding.copies = folding.copies or _copies(folding, backend)
        copies(carved(made, backend), *(layer.listed(backend) for layer in layers))
        return made
    for value, read in folding.reads.items():
        for number, rows, places in read.parts:
            part, target = layers[number].rows(value), made.rows(value)
            target[_host(rows)] = part[_host(places)].to(target.device)
    for slot in folding.stack.statistics:
        made.block.tensors[name_of(slot)].copy_(layers[folding.stack.newest[slot]].state(slot))
    return made


def _copies(folding: Folding, backend: Backend) -> Callable[..., None]:
    """What copies the handles of layers to those of the one that they become."""
    to, forms = folding.form.position, folding.stack.forms
    newest = {slot: folding.stack.newest[slot] for slot in folding.stack.statistics}
    copies: list[Copy] = [read.copy((0, to[value]), forms, first=1) for value, read in folding.reads.items()]
    copies += [((0, to[slot]), None, (1 + n, forms[n].position[slot]), None) for slot, n in newest.items()]
    return backend.copies(copies)


def _host(index: Index | None) -> Tensor | slice:
    return slice(None) if index is None else torch.from_numpy(index.host).long()
