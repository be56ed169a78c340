"""Fusion: pointwise chains into one map, maps into epilogues, moved rows into index tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from retouch.ir.expr import Expr, Instr, is_row_wise, substitute
from retouch.ir.program import Op, Program, Value, verify
from retouch.ops.gemm import Accumulate
from retouch.ops.pool import Pool
from retouch.ops.row_map import Map, Remap, deduplicate

Pass = Callable[[Program], Program]


def fuse(program: Program) -> Program:
    """All fusions in order; the program is verified after each."""
    passes: tuple[Pass, ...] = (remove_dead, merge_maps, fold_epilogues, fold_remaps, remove_dead)
    for step in passes:
        program = verify(step(program), step.__name__)
    return program


def remove_dead(program: Program) -> Program:
    """Drop operations that no output depends on."""
    used = {o.value for o in program.outputs}
    kept: list[Op] = []
    for op in reversed(program.ops):
        if op.out in used:
            kept.append(op)
            used.update(op.inputs())
    return replace(program, ops=tuple(reversed(kept)))


def _single_use(program: Program) -> dict[Value, Op]:
    """The only consumer of each value that has one and is no output."""
    returned = {o.value for o in program.outputs}
    return {v: ops[0] for v, ops in program.consumers().items() if len(ops) == 1 and v not in returned}


def _fits(inner: Map, outer: Map) -> bool:
    """Whether `inner` can be evaluated within `outer`, row by row at the width of `outer`."""
    width = max(v.channels for v in outer.rows)
    widths = {v.channels for v in inner.rows}
    return widths <= {width} if is_row_wise(inner.expr) else widths <= {width, 1}


def merge_maps(program: Program) -> Program:
    """Replace a map that only one other map reads by its expression."""
    single = _single_use(program)
    merged: dict[Value, Map] = {}
    ops: list[Op] = []
    for op in program.ops:
        if isinstance(op, Map):
            for value in op.rows:
                inner = merged.get(value)
                if inner and single.get(value) is not None and _fits(inner, op):
                    op = _inline(op, inner)
            merged[op.out] = op
        ops.append(op)
    return remove_dead(replace(program, ops=tuple(ops)))


def _inline(outer: Map, inner: Map) -> Map:
    operand = outer.rows.index(inner.out)
    expr = substitute(outer.expr, inner.expr, operand, len(inner.rows), len(inner.vectors))
    rows = (*inner.rows, *(v for i, v in enumerate(outer.rows) if i != operand))
    return deduplicate(replace(outer, expr=expr, rows=rows, vectors=(*inner.vectors, *outer.vectors)))


def fold_epilogues(program: Program) -> Program:
    """Move a map into the epilogue of the convolution or linear layer that alone feeds it."""
    single = _single_use(program)
    position = {op.out: i for i, op in enumerate(program.ops)}
    producers = program.producers()
    replaced: dict[Value, Op] = {}
    for op in program.ops:
        if not isinstance(op, Map) or is_row_wise(op.expr):
            continue
        sources = [v for v in op.rows if isinstance(producers.get(v), Accumulate) and single.get(v) is op]
        sources = [v for v in sources if v.channels == op.out.channels and v not in replaced]
        if any(v.channels not in (1, op.out.channels) for v in op.rows) or not sources:
            continue
        last = max(sources, key=lambda v: position[v])
        producer = producers[last]
        assert isinstance(producer, Accumulate)
        replaced[op.out] = _with_epilogue(producer, op)
    ops = tuple(replaced.get(op.out, op) for op in program.ops)
    return remove_dead(replace(program, ops=ops))


def _with_epilogue(producer: Accumulate, op: Map) -> Accumulate:
    operand = op.rows.index(producer.out)
    inner: Expr = producer.epilogue or (Instr("acc"),)
    expr = substitute(op.expr, inner, operand, len(producer.rows), len(producer.vectors))
    rows = (*producer.rows, *(v for i, v in enumerate(op.rows) if i != operand))
    return replace(producer, out=op.out, epilogue=expr, rows=rows, vectors=(*producer.vectors, *op.vectors))


def fold_remaps(program: Program) -> Program:
    """Read through padding and nearest resizing instead of making their rows.

    A maximum must see the padded zeros, so its operand stays.
    """
    moved: dict[Value, Remap] = {}
    ops: list[Op] = []
    for op in program.ops:
        if isinstance(op, Remap) and op.src in moved:
            first = moved[op.src]
            op = replace(op, src=first.src, geometry=op.geometry.after(first.geometry))
        elif isinstance(op, Accumulate | Pool) and op.src in moved and getattr(op, "weights", True) is not None:
            first = moved[op.src]
            geometry = op.geometry.after(first.geometry) if op.geometry else first.geometry
            op = replace(op, src=first.src, geometry=geometry)
        if isinstance(op, Remap):
            moved[op.out] = op
        ops.append(op)
    return remove_dead(replace(program, ops=tuple(ops)))
