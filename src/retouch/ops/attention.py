"""Attention of the active queries over all keys and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from retouch.ir.emitter import Emitter
from retouch.ir.meter import Meter
from retouch.ir.operands import Operand, Slot, SlotKind
from retouch.ir.program import Attended, Op, Read
from retouch.ir.tables import Table
from retouch.ir.value import Matrix, Value
from retouch.ir.work import Rows
from retouch.ops.row_map import fetch, store
from retouch.ops.spec import Arguments, Draw, KernelSpec

HIDDEN = -1e30
"""The bias of a key that is not read: its weight is zero beside any other, and no difference of two is infinite."""


@dataclass(frozen=True, eq=False)
class Attention(Op):
    """softmax(scale * q k^T) v with `heads` heads side by side in the channels.

    Keys and values are one or several runs: rows of a grid, all of which are read, or matrices `[B * S, C]`
    of dense values. A `bias` of keys, float32 `[B, S]` or `[B, heads * S]`, is added before the softmax: a mask; for
    every query times its `gates`, float32 rows of one channel, where there are some.
    `before`: causal attention, of every row to the keys up to its own place, with so many before those of its grid.
    """

    q: Value
    k: tuple[Value | Matrix, ...]
    v: tuple[Value | Matrix, ...]
    heads: int
    scale: float
    bias: Matrix | None = None
    before: int | None = None
    gates: Value | None = None

    kernels = ("attention",)
    whole_map = True

    def operands(self) -> tuple[tuple[Value, Read], ...]:
        queries = (self.q, self.gates) if self.gates else (self.q,)
        whole = (x for x in (*self.k, *self.v) if isinstance(x, Value))
        return (*((x, Read.ACTIVE) for x in queries), *((x, Read.ALL) for x in whole))

    def dense_operands(self) -> tuple[Value, ...]:
        return tuple(x.value for x in (*self.k, *self.v, self.bias) if isinstance(x, Matrix))

    @property
    def length(self) -> int:
        """Keys per sample."""
        rows = sum(x.rows if isinstance(x, Value) else x.shape[0] for x in self.k)
        return rows // self.out.batch

    def macs_per_row(self) -> int:
        return self.length * (self.q.channels + self.out.channels)

    def changed(self, masks: dict[Value, Any]) -> Any:
        mask = masks[self.q] if self.gates is None else masks[self.q] | masks[self.gates]
        for keys in (*self.k, *self.v):
            if isinstance(keys, Value):
                touched = masks[keys].reshape(self.out.batch, -1).any(1)
                mask = mask | touched[:, None, None]
        return mask

    @property
    def attended(self) -> Attended:
        return Attended((*self.k, *self.v), self.bias)

    def reading(self, out: Value, others: Mapping[Value, Value]) -> Op:
        def of(matrix: Matrix) -> Matrix:
            return replace(matrix, value=others.get(matrix.value, matrix.value))

        k, v = (tuple(of(x) if isinstance(x, Matrix) else x for x in runs) for runs in (self.k, self.v))
        return replace(self, out=out, k=k, v=v, bias=of(self.bias) if self.bias else None)

    def evaluate(self, emitter: Emitter, rows: Table, out: Operand, out_index: Table | None) -> None:
        q, q_index = emitter.access(self.q, rows)
        k, v = ([emitter.whole(run) for run in runs] for runs in (self.k, self.v))
        bounds = emitter.bounds(self.out, rows)
        bias = Slot(SlotKind.MATRIX, self.bias) if self.bias else None
        limits = None if self.before is None else emitter.limits(self.out, rows, self.before)
        gates = emitter.access(self.gates, rows) if self.gates else ()
        emitter.call(
            "attention", out, out_index, q, q_index, k, v, self.heads, self.scale, bounds, bias, limits, *gates
        )

    def evaluation(self, meter: Meter, rows: Rows) -> None:
        nbytes = sum(meter.read(x, rows) for x, read in self.operands() if read is Read.ACTIVE)
        nbytes += meter.write(self.out, rows)
        nbytes += sum(meter.whole(x) if isinstance(x, Value) else x.nbytes for x in (*self.k, *self.v))
        columns = (self.q.channels + self.out.channels) // self.heads
        shape = {"rows": len(rows), "columns": columns, "depth": self.length, "count": self.heads}
        meter.add("attention", self.out.dtype, nbytes, **shape)

    def describe(self) -> str:
        kind = ", masked" if self.bias else "" if self.before is None else ", causal"
        return f"attention[{self.heads} heads, {self.length} keys{kind}]"


def reference(
    out: Tensor,
    out_index: Tensor | None,
    q: Tensor,
    q_index: Tensor | None,
    k: Sequence[Tensor],
    v: Sequence[Tensor],
    heads: int,
    scale: float,
    bounds: Tensor,
    bias: Tensor | None = None,
    limits: Tensor | None = None,
    gates: Tensor | None = None,
    gate_index: Tensor | None = None,
) -> None:
    """Queries bounds[b] to bounds[b + 1] attend to the keys of sample b.

    q `[rows, heads * dk]` through q_index, k runs of `[B * S_i, heads * dk]`, one after the other in each sample, v
    runs of `[B * S_i, heads * dv]`, bounds int32 `[B + 1]`, out `[rows, heads * dv]`, bias float32 `[B, S]`, or
    `[B, heads * S]`, with S the sum of all S_i; limits int32 `[M]`: how many keys each query reads, from the first on,
    at least one; gates float32 `[rows, 1]` through gate_index: what the bias is multiplied by for each query. Computed
    in float32.
    """
    queries = fetch(q, q_index).float()
    samples = len(bounds) - 1
    keys, values = (
        torch.cat([run.float().reshape(samples, -1, heads, run.shape[1] // heads) for run in runs], 1).transpose(1, 2)
        for runs in (k, v)
    )
    terms = None if bias is None else bias.reshape(samples, -1, 1, keys.shape[2])
    shares = torch.ones(len(queries), 1, device=q.device) if gates is None else fetch(gates, gate_index)
    parts = []
    for b, (first, last) in enumerate(pairwise(bounds.tolist())):
        part = queries[first:last].reshape(last - first, heads, q.shape[1] // heads).transpose(0, 1)
        scores = part @ keys[b].transpose(1, 2) * scale
        scores = scores if terms is None else scores + terms[b] * shares[first:last]
        if limits is not None:
            later = torch.arange(keys.shape[2], device=q.device) >= limits[first:last, None]
            scores = scores.masked_fill(later, HIDDEN)
        weights = torch.softmax(scores, dim=-1)
        parts.append((weights @ values[b]).transpose(0, 1).reshape(last - first, out.shape[1]))
    store(out, out_index, torch.cat(parts))


def _masked(draw: Draw, dtype: torch.dtype) -> Arguments:
    """With keys that are hidden, for all heads or for each."""
    given = _arguments(draw, dtype, 64, (17, 64))
    heads, samples = given[6], len(given[8]) - 1
    bias = draw.rows(samples, _keys(given) * draw.choice(1, heads))
    hidden = draw.index(0, 3, *bias.shape) == 0
    hidden[:, 0] = False
    return *given, bias.masked_fill(hidden, HIDDEN)


def _gated(draw: Draw, dtype: torch.dtype) -> Arguments:
    """With a bias that differs between queries."""
    given = _arguments(draw, dtype, 64, (17, 64))
    bounds = given[8]
    count = int(bounds[-1])
    bias = draw.rows(len(bounds) - 1, _keys(given))
    return *given, bias, None, draw.rows(count + 3, 1), draw.index(0, count + 3, count)


def _causal(draw: Draw, dtype: torch.dtype) -> Arguments:
    """With queries that read some of the first keys."""
    given = _arguments(draw, dtype, 64, (17, 64))
    return *given, None, draw.index(1, _keys(given) + 2, int(given[8][-1]))


def _keys(given: Arguments) -> int:
    """Keys of a sample."""
    return sum(map(len, given[4])) // (len(given[8]) - 1)


def _arguments(draw: Draw, dtype: torch.dtype, usual: int, others: tuple[int, ...] = ()) -> Arguments:
    """`usual`: channels of a head; `others`, where they are drawn. Few wide heads are enough."""
    heads = draw.size(640 // usual, *((1, 2, 5) if others else (1,)))
    runs = [draw.size(100, *((1, 2, 31, 77, 129, 600) if others else (1, 70))) for _ in range(draw.size(1, 1, 2, 3))]
    longest = draw.size(120, *((31, 70) if others else (20,)))
    size, value_size = draw.size(usual, *others), draw.size(usual, *others)
    counts = draw.counts(longest)
    m, samples = sum(counts), len(counts)
    k, v = ([draw.rows(samples * n, heads * width, dtype) for n in runs] for width in (size, value_size))
    q, index = draw.rows(m + 3, heads * size, dtype), draw.index(0, m + 3, m)
    out = draw.target(m, heads * value_size, draw.output(dtype))
    return *out, q, index, k, v, heads, size**-0.5, draw.bounds(*counts)


SPEC = KernelSpec(
    "attention",
    "out[m] = sum of softmax over keys s < limits[m] of the sample of (scale * q[m] . k[s] + gates[m] * bias[s]) "
    "* v[s], for each head",
    reference,
    {"heads of 40": partial(_arguments, usual=40, others=(1, 8, 9, 40)),
     "heads of 64": partial(_arguments, usual=64, others=(17, 64)),
     "masked": _masked, "gated": _gated, "causal": _causal, "heads of 160": partial(_arguments, usual=160),
     "heads of 512": partial(_arguments, usual=512)},
    # In 16 bits the weights of the values are rounded as well.
    {torch.float32: 1e-5, torch.bfloat16: 4e-3, torch.float16: 4e-3},
)  # fmt: skip
