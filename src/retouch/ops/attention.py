"""Attention of the active queries over all keys and values."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from retouch.ir.program import Meter, Op, Value
from retouch.ops.row_map import Matrix, fetch, store

if TYPE_CHECKING:
    from retouch.runtime.schedule import Builder


@dataclass(frozen=True, eq=False)
class Attention(Op):
    """softmax(scale * q k^T) v with `heads` heads side by side in the channels.

    Keys and values are one or several runs: rows of a grid, all of which are read, or matrices `[B * S, C]`
    of dense values.
    """

    q: Value
    k: tuple[Value | Matrix, ...]
    v: tuple[Value | Matrix, ...]
    heads: int
    scale: float

    def operands(self) -> tuple[tuple[Value, str], ...]:
        return ((self.q, "active"), *((x, "all") for x in (*self.k, *self.v) if isinstance(x, Value)))

    def dense_operands(self) -> tuple[Value, ...]:
        return tuple(x.value for x in (*self.k, *self.v) if isinstance(x, Matrix))

    @property
    def length(self) -> int:
        """Keys per sample."""
        rows = sum(x.rows if isinstance(x, Value) else x.shape[0] for x in self.k)
        return rows // self.out.batch

    def macs_per_row(self) -> int:
        return self.length * (self.q.channels + self.out.channels)

    def changed(self, masks: dict[Value, Any]) -> Any:
        mask = masks[self.q]
        for keys in (*self.k, *self.v):
            if isinstance(keys, Value):
                touched = masks[keys].reshape(self.out.batch, -1).any(1)
                mask = mask | touched[:, None, None]
        return mask

    def emit(self, builder: Builder) -> None:
        active = builder.active(self.out)
        q, q_index = builder.access(self.q, active)
        k, v = (builder.whole(x, self.out.batch, self.q.dtype) for x in (self.k, self.v))
        bounds = builder.bounds(self.out, active)
        builder.call("attention", *builder.target(self.out), q, q_index, k, v, self.heads, self.scale, bounds)

    def work(self, meter: Meter) -> None:
        rows = meter.active(self.out)
        nbytes = meter.read(self.q, rows) + meter.write(self.out, rows)
        for runs in (self.k, self.v):
            sizes = [meter.whole(x) if isinstance(x, Value) else x.nbytes for x in runs]
            for size in sizes if len(sizes) > 1 else ():
                meter.add("copy_rows", self.q.dtype, 2 * size)
            nbytes += sum(sizes)
        columns = (self.q.channels + self.out.channels) // self.heads
        meter.add(
            "attention", self.out.dtype, nbytes, rows=len(rows), columns=columns, depth=self.length, count=self.heads
        )

    def describe(self) -> str:
        return f"attention[{self.heads} heads, {self.length} keys]"


def reference(
    out: Tensor,
    out_index: Tensor | None,
    q: Tensor,
    q_index: Tensor | None,
    k: Tensor,
    v: Tensor,
    heads: int,
    scale: float,
    bounds: Tensor,
) -> None:
    """Queries bounds[b] to bounds[b + 1] attend to the keys of sample b.

    q `[rows, heads * dk]` through q_index, k `[B * S, heads * dk]`, v `[B * S, heads * dv]`, bounds int32
    `[B + 1]`, out `[rows, heads * dv]`. Computed in float32.
    """
    queries = fetch(q, q_index).float()
    samples = len(bounds) - 1
    keys = k.float().reshape(samples, -1, heads, k.shape[1] // heads).transpose(1, 2)
    values = v.float().reshape(samples, -1, heads, v.shape[1] // heads).transpose(1, 2)
    parts = []
    for b, (first, last) in enumerate(pairwise(bounds.tolist())):
        part = queries[first:last].reshape(last - first, heads, q.shape[1] // heads).transpose(0, 1)
        weights = torch.softmax(part @ keys[b].transpose(1, 2) * scale, dim=-1)
        parts.append((weights @ values[b]).transpose(0, 1).reshape(last - first, out.shape[1]))
    store(out, out_index, torch.cat(parts))
