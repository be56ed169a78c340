"""What the schedules of one compiled module have in common."""

from __future__ import annotations

from collections.abc import Callable
from operator import is_
from typing import Any

import torch

from retouch.frontend.signature import same_tensor
from retouch.ir.expr import Expr
from retouch.ir.tables import Factors, Table
from retouch.ir.value import Value
from retouch.kernels import Backend
from retouch.ops.sums import sums_width
from retouch.passes.chains import Chain
from retouch.runtime.threads import threads_for

RESULTS = 2
"""Results of a chain that are remembered, for as many inputs: with and without the words, when these take turns."""


class Shared:
    """Handles of expressions, the arena of temporaries, and what chains last gave.

    Schedules run one at a time, so they share the memory of their temporaries; touching fresh memory for
    each region would cost more than computing a small one.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._programs: dict[int, tuple[Expr, Any]] = {}
        self._zeros: dict[tuple[int, int], Any] = {}
        self._results: dict[tuple[Value, ...], list[tuple[int, list[Any], dict[Value, Any]]]] = {}
        self.arena_bytes = -1
        self._arena: Callable[..., Any] | None = None

    def arena(self, nbytes: int) -> Callable[..., Any]:
        """Scratch memory of at least `nbytes`; see `Backend.arena`."""
        if self._arena is None or nbytes > self.arena_bytes:
            self.arena_bytes, self._arena = nbytes, self.backend.arena(nbytes)
        return self._arena

    def handle(self, table: Table | Factors) -> Any:
        """A new handle of a table."""
        if isinstance(table, Table):
            return self.backend.index(table.array)
        return self.backend.rows(torch.from_numpy(table.array).to(self.backend.device))

    def zeros(self, batch: int, channels: int) -> Any:
        """The handle of channel sums that are zero."""
        if (batch, channels) not in self._zeros:
            width = sums_width(channels, self.backend.sums_dtype)
            memory = self.backend.empty(batch, width, self.backend.sums_dtype)
            self._zeros[batch, channels] = self.backend.rows(memory.zero_())
        return self._zeros[batch, channels]

    def program(self, expr: Expr) -> Any:
        """The handle of an expression; by identity, as hashing a long one takes longer than to look it up."""
        found = self._programs.get(id(expr))
        if found is None:
            found = self._programs[id(expr)] = (expr, self.backend.program(expr))
        return found[1]

    def results(self, chain: Chain, generation: int, content: Callable[[Value], Any]) -> dict[Value, Any]:
        """What a chain gives; computed once for the same inputs and the same `generation` of weights."""
        given = list(map(content, chain.inputs))
        known = self._results.setdefault(chain.results, [])
        for made, inputs, results in known:
            if made == generation and self._same(inputs, given):
                return results
        with threads_for(chain.effort):
            found = chain.run(content)
        known[:] = [*known[-RESULTS + 1 :], (generation, given, found)]
        return found

    def _same(self, inputs: list[Any], given: list[Any]) -> bool:
        """Whether inputs are the same: by content on the host, by identity where reading it would wait for a device."""
        same = same_tensor if self.backend.device.type == "cpu" else is_
        return all(map(same, inputs, given))


class Scratch:
    """Memory for the saved rows of one update, laid out one value after the other."""

    def __init__(self, backend: Backend, nbytes: int) -> None:
        self.nbytes = nbytes
        self.place = backend.arena(nbytes)
