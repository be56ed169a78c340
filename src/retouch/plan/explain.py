"""What a compiled module does for a region, as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from retouch.ir.program import Op, Program
from retouch.ir.tables import Table
from retouch.ir.value import Value
from retouch.passes.storage import Plan, Storage


@dataclass(frozen=True)
class Line:
    """One operation; rows and multiply-accumulates of all samples."""

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


@dataclass(frozen=True)
class Explanation:
    """A readable report; `str()` gives the table.

    `kernels` says which backend computes, where, and whether "auto" would take it, and what it lacks.
    """

    lines: tuple[Line, ...]
    kept_bytes: int
    recomputed: int = 0
    recomputed_macs: int = 0
    kernels: str = ""

    @property
    def macs_dense(self) -> int:
        """Multiply-accumulates of one dense run."""
        return sum(line.macs_dense for line in self.lines) + self.recomputed_macs

    @property
    def macs_active(self) -> int:
        """Multiply-accumulates of the update."""
        return sum(line.macs_active for line in self.lines) + self.recomputed_macs

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
        text += [self.kernels] if self.kernels else []
        text += [f"runs densely: {reason}" for reason in self.fallbacks] or ["every operation has a rule"]
        return "\n".join(text)


def explain(
    program: Program,
    plan: Plan,
    active: dict[Value, Table],
    computed_by: Callable[[Iterable[str]], str],
    kernels: str = "",
) -> Explanation:
    """One line for each operation on rows, and each fallback; `computed_by` names the backend of some kernels."""
    lines = [_line(op, plan, active, computed_by(op.kernels)) for op in program.ops if op.out.grid or op.reason]
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


def _line(op: Op, plan: Plan, active: dict[Value, Table], backend: str) -> Line:
    value = op.out
    rows = len(active[value]) if value.grid else 0
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
    )
