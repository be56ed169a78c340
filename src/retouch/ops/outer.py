"""The sum of outer products over a whole map, as linear attention takes it: keys times values, k^T v.

Source: Katharopoulos et al., "Transformers are RNNs" (arXiv 2006.16236), equation 6.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from retouch.ir.emitter import Emitter
from retouch.ir.meter import Meter
from retouch.ir.operands import Operand, Slot, SlotKind
from retouch.ir.program import Op, Read
from retouch.ir.tables import Table
from retouch.ir.value import Value
from retouch.ops.row_map import fetch
from retouch.ops.spec import FLOATS, Arguments, Draw, KernelSpec, within
from retouch.ops.sums import sums_width


@dataclass(frozen=True, eq=False)
class Outer(Op):
    """float32 `[B, heads * da * db]`: for each head the sum over positions of `a[d] * b[e]`, [da, db].

    The heads of `a` and `b` lie side by side in their channels. Like the channel sums of a norm it is kept in float64,
    and where statistics follow the active rows an update takes out what the old ones gave and adds what the new ones
    give. Rows beside them count as recorded.
    """

    a: Value
    b: Value
    heads: int

    whole_map = True
    kernels = ("outer_sums", "fold_mean")

    def operands(self) -> tuple[tuple[Value, Read], ...]:
        return ((self.a, Read.SUMS), (self.b, Read.SUMS))

    def changed(self, masks: dict[Value, Any]) -> Any:
        return masks[self.a].any() or masks[self.b].any()

    def is_due(self, active: Mapping[Value, Table]) -> bool:
        return len(active[self.a]) > 0 or len(active[self.b]) > 0

    def emit(self, emitter: Emitter) -> None:
        if not emitter.follows((self.a, self.b)):
            return
        sums = emitter.state(Slot(SlotKind.SUMS, self.out))
        rows, parts = emitter.active(self.a), (self.a, self.b)
        if rows is not emitter.active(self.b):
            emitter.clear(sums)
            whole = [emitter.whole(x) for x in parts]
            self._add(emitter, sums, whole, None, Table.all(rows.total), 1)
        elif rows.complete:
            emitter.clear(sums)
            self._add(emitter, sums, [emitter.access(x, rows)[0] for x in parts], None, rows, 1)
        else:
            self._replace(emitter, sums, rows)
        emitter.call("fold_mean", emitter.state(Slot(SlotKind.FOLDED, self.out)), sums, None, 1)

    def _replace(self, emitter: Emitter, sums: Slot, rows: Table) -> None:
        """The active rows as they were go out, and come in as they are."""
        a, b = (emitter.access(x, rows)[0] for x in (self.a, self.b))
        assert isinstance(a, Slot)
        assert isinstance(b, Slot)
        places = None if rows.edited is rows else emitter.positions(rows.edited, rows)
        self._add(emitter, sums, [emitter.saved(a, rows), emitter.saved(b, rows)], places, rows.edited, -1)
        self._add(emitter, sums, [a, b], rows.edited, rows.edited, 1)

    def _add(
        self, emitter: Emitter, sums: Slot, factors: list[Operand], index: Table | None, rows: Table, sign: int
    ) -> None:
        a, b = factors
        emitter.call("outer_sums", sums, a, index, b, index, self.heads, emitter.bounds(self.a, rows), sign)

    def work(self, meter: Meter) -> None:
        if not meter.follows((self.a, self.b)):
            return
        rows, others = meter.active(self.a), meter.active(self.b)
        sums = 8 * sums_width(self.out.channels, torch.float64) * self.out.batch
        if rows is not others or rows.distinct == self.a.rows:
            meter.add("copy_rows", self.a.dtype, 2 * sums)
            nbytes = meter.whole(self.a) + meter.whole(self.b)
            runs, count = 1, self.a.rows
        else:
            nbytes = meter.read(self.a, rows) + meter.read(self.b, rows)
            runs, count = 2, len(rows)
        for _ in range(runs):
            meter.add("outer_sums", self.a.dtype, nbytes + 2 * sums, rows=count, columns=self.out.channels)
        meter.add("fold_mean", torch.float32, sums + 4 * math.prod(self.out.shape))

    def describe(self) -> str:
        return f"outer[{self.heads} heads]"


def reference(
    sums: Tensor,
    a: Tensor,
    a_index: Tensor | None,
    b: Tensor,
    b_index: Tensor | None,
    heads: int,
    bounds: Tensor,
    sign: int,
    dtype: torch.dtype = torch.float64,
) -> None:
    """`sums[s, (h, d, e)] += sign * sum of a[m, (h, d)] * b[m, (h, e)]` over rows m from bounds[s] to bounds[s + 1].

    sums float64 `[B, 2K]`, of which the first K = heads * da * db are used; a `[rows, heads * da]` and b
    `[rows, heads * db]` through indices int32 `[M]` or None; bounds int32 `[B + 1]`. As float32 sums are `[B, 4K]`: K
    sums, then what rounding them lost (Knuth's exact addition).
    """
    for s, part in enumerate(_products(fetch(a, a_index).to(dtype), fetch(b, b_index).to(dtype), heads, bounds)):
        total, added = sums[s, : len(part)], sign * part
        found = total + added
        if dtype == torch.float32:
            virtual = found - total
            sums[s, len(part) : 2 * len(part)] += (total - (found - virtual)) + (added - virtual)
        total.copy_(found)


def _products(a: Tensor, b: Tensor, heads: int, bounds: Tensor) -> list[Tensor]:
    left, right = (x.reshape(len(x), heads, x.shape[1] // heads) for x in (a, b))
    runs = [slice(first, last) for first, last in pairwise(bounds.tolist())]
    return [torch.einsum("nhd,nhe->hde", left[run], right[run]).flatten() for run in runs]


def _arguments(draw: Draw, dtype: torch.dtype) -> Arguments:
    heads, widths = draw.size(8, 1, 3), [draw.size(40, 1, 5, 17, 33) for _ in range(2)]
    counts = draw.counts(200)
    m, sums = sum(counts), draw.matrix(len(counts), 2 * heads * widths[0] * widths[1], dtype=torch.float64)
    factors = [(draw.rows(m + 1, heads * w, dtype), draw.choice(draw.index(-1, m + 1, m), None)) for w in widths]
    return sums, *factors[0], *factors[1], heads, draw.bounds(*counts), draw.choice(1, -1)


SPEC = KernelSpec(
    "outer_sums",
    "sums[s, h, d, e] += sign * sum of a[a_index[m], h, d] * b[b_index[m], h, e], m from bounds[s] to bounds[s + 1]",
    reference,
    {"heads": _arguments},
    within(1e-12, *FLOATS),
    single=partial(reference, dtype=torch.float32),
    like="channel_sums",
)
