"""What a compiled module does for a region, as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from retouch.ir.program import Op, Program
from retouch.ir.tables import Table
from retouch.ir.value import Value
from retouch.passes.storage import Plan, Storage
from retouch.plan.choose import Decision

Seconds = Mapping[str, float]
"""Of operations, by the names of their values."""


@dataclass(frozen=True)
class Line:
    """One operation; rows and multiply-accumulates of all samples.

    predicted_ms, measured_ms: milliseconds of its kernel calls (None: not known, not measured). What is never stored
    takes them where it is read. left: why a product is not in int8, where others are.
    """

    name: str
    op: str
    grid: str
    rows: int
    active: int
    macs_dense: int
    macs_active: int
    kept_bytes: int
    backend: str
    fallback: str
    predicted_ms: float | None = None
    measured_ms: float | None = None
    left: str = ""


@dataclass(frozen=True)
class Explanation:
    """A readable report; `str()` gives the table.

    `kernels` says which backend computes, where, and whether "auto" would take it, and what it lacks. `decision` is
    what an update for the region does; `measured_ms` is what the last one took (None: it was not run yet).
    """

    lines: tuple[Line, ...]
    kept_bytes: int
    recomputed: int = 0
    recomputed_macs: int = 0
    kernels: str = ""
    decision: Decision | None = None
    measured_ms: float | None = None

    @property
    def predicted_ms(self) -> float | None:
        """Predicted milliseconds of an update for the region, if it was seen before."""
        return self.decision.predicted_ms if self.decision else None

    @property
    def macs_dense(self) -> int:
        """Multiply-accumulates of one dense run."""
        return sum(line.macs_dense for line in self.lines) + self.recomputed_macs

    @property
    def macs_active(self) -> int:
        """Multiply-accumulates of the update."""
        return sum(line.macs_active for line in self.lines) + self.recomputed_macs

    @property
    def in_int8(self) -> float:
        """The share of the multiply-accumulates of convolutions and linear layers of a dense run that is in int8."""
        found = sum(line.macs_dense for line in self.lines if line.op.startswith("int8_gemm["))
        return found / ((found + sum(line.macs_dense for line in self.lines if line.left)) or 1)

    @property
    def fallbacks(self) -> list[str]:
        """Operations without a rule, with the reason; they run densely."""
        return [f"{line.name}: {line.fallback}" for line in self.lines if line.fallback]

    def __str__(self) -> str:
        header = ("value", "operation", "grid", "rows active", "GMAC dense", "active", "kept MB", "backend")
        table = [header]
        for line in self.lines:
            share = f"{line.active} of {line.rows}" if line.rows else ""
            kept = f"{line.kept_bytes / 1e6:.2f}" if line.kept_bytes else ""
            macs = (f"{line.macs_dense / 1e9:.3f}", f"{line.macs_active / 1e9:.3f}") if line.macs_dense else ("", "")
            table.append((line.name, line.op, line.grid, share, *macs, kept, line.backend))
        widths = [min(44, max(len(row[i]) for row in table)) for i in range(len(header))]
        text = ["  ".join(cell[:w].ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table]
        fraction = self.macs_active / self.macs_dense if self.macs_dense else 0.0
        text.append(
            f"{self.macs_active / 1e9:.2f} of {self.macs_dense / 1e9:.2f} GMAC active ({fraction:.1%}), "
            f"{self.kept_bytes / 1e6:.0f} MB kept"
        )
        if self.recomputed:
            text.append(
                f"{self.recomputed} values without a grid depend on the image and are computed again "
                f"({self.recomputed_macs / 1e9:.3f} GMAC)"
            )
        text += self._left()
        text += [str(self.decision), self._times()] if self.decision else []
        text += [self.kernels] if self.kernels else []
        text += [f"runs densely: {reason}" for reason in self.fallbacks] or ["every operation has a rule"]
        return "\n".join(text)

    def _left(self) -> list[str]:
        left = [f"  {line.name}: {line.left}" for line in self.lines if line.left]
        return [f"{self.in_int8:.1%} of the arithmetic of products is in int8; as they are stay", *left] if left else []

    def _times(self) -> str:
        assert self.decision is not None
        measured = "not run yet" if self.measured_ms is None else f"measured {self.measured_ms:.3g} ms"
        if self.decision.predicted_ms is None:
            return f"no prediction, {measured}"
        ways = (
            f"{self.decision.sparse_ms:.3g} ms for the active rows and {self.decision.preparing_ms:.3g} ms more for a "
            f"new region, {self.decision.whole_ms:.3g} ms for everything"
        )
        return f"predicted {self.decision.predicted_ms:.3g} ms ({ways}), {measured}"


def explain(
    program: Program,
    plan: Plan,
    active: dict[Value, Table],
    computed_by: Callable[[Iterable[str]], str],
    kernels: str = "",
    predicted: Seconds | None = None,
    measured: Seconds | None = None,
    left: Mapping[Value, str] = MappingProxyType({}),
) -> Explanation:
    """One line for each operation on rows, and each fallback; `computed_by` names the backend of some kernels, `left`
    says why products are not in int8.
    """
    told = [op for op in program.ops if op.out.grid or op.reason]
    lines = [
        replace(_line(op, plan, active, computed_by(op.kernels), predicted, measured), left=left.get(op.out, ""))
        for op in told
    ]
    others = [op for op in _recomputed(program) if not op.reason]
    return Explanation(tuple(lines), plan.kept_bytes, len(others), sum(op.arithmetic(0) for op in others), kernels)


def _recomputed(program: Program) -> list[Op]:
    """Dense operations without a grid that depend on rows, in order."""
    depends: set[Value] = set()
    found = []
    for op in program.ops:
        if op.host and not op.out.grid and (op.operands() or depends & set(op.dense_operands())):
            depends.add(op.out)
            found.append(op)
    return found


def _line(
    op: Op, plan: Plan, active: dict[Value, Table], backend: str, predicted: Seconds | None, measured: Seconds | None
) -> Line:
    value = op.out
    rows = plan.computed(value, active) if value.grid else 0
    kept = value.nbytes if plan.storage.get(value) is Storage.KEPT else 0
    return Line(
        name=value.name,
        op=op.describe(),
        grid=str(value.grid or ""),
        rows=value.rows,
        active=rows,
        macs_dense=op.arithmetic(value.rows),
        macs_active=op.arithmetic(rows),
        kept_bytes=kept,
        backend="torch" if op.host else backend,
        fallback=op.reason,
        predicted_ms=_ms(predicted, value.name),
        measured_ms=_ms(measured, value.name),
    )


def _ms(seconds: Seconds | None, name: str) -> float | None:
    return 1e3 * seconds.get(name, 0.0) if seconds else None
