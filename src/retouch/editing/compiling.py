"""How far networks are that are compiled, which takes seconds: told in modules, as these are called for that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from threading import get_ident

from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from retouch.editing.archive import Progress, silent

TWICE = 0.55
"""Share of the time in which a network is called twice, to see whether it is known and to capture it; it is then made
into a program and its weights are packed.
"""
PARTS = 100
"""Times that one is told of what is going on, at most."""


class Compiling:
    """Networks that are compiled one after the other; `progress` is told how many of all their modules are done."""

    def __init__(self, networks: Sequence[nn.Module] = (), progress: Progress = silent) -> None:
        self.progress, self.total, self.done = progress, sum(map(_count, networks)), 0

    def tell(self, more: int = 0) -> None:
        """So many modules more than those of the networks that are done."""
        self.progress(self.done + more, self.total, "preparing the networks")

    @contextmanager
    def of(self, network: nn.Module) -> Iterator[None]:
        """One of them is compiled in a block, by this thread."""
        thread, own, calls = get_ident(), set(network.modules()), count(1)
        every = 1 + 2 * self.total // PARTS

        def hook(module: nn.Module, *_: object) -> None:
            if get_ident() == thread and module in own and not (called := next(calls)) % every:
                self.tell(int(TWICE * min(called / 2, len(own))))

        self.tell()
        handle = register_module_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()
        self.done += len(own)


def _count(network: nn.Module) -> int:
    return sum(1 for _ in network.modules())
