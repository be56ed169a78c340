"""Fusion: pointwise chains into one map, maps into epilogues, moved rows into index tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from retouch.ir.program import Op, Program
from retouch.ir.value import Value
from retouch.ir.verify import verify

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


def merge_maps(program: Program) -> Program:
    """Evaluate a map that only one other map reads within that one."""
    single = _single_use(program)
    merged: dict[Value, Op] = {}
    for op in program.ops:
        for value, _ in op.operands():
            if value in merged and value in single:
                op = op.merge(merged[value]) or op
        merged[op.out] = op
    return remove_dead(replace(program, ops=tuple(merged.values())))


def fold_epilogues(program: Program) -> Program:
    """Move a map into the epilogue of the last convolution or linear layer that it alone reads."""
    single, position = _single_use(program), {op.out: i for i, op in enumerate(program.ops)}
    producers = program.producers()
    replaced: dict[Value, Op] = {}
    for op in program.ops:
        sources = [v for v, _ in op.operands() if v in producers and single.get(v) is op]
        finished = {v: done for v in sources if (done := producers[v].finish(op))}
        if finished:
            replaced[op.out] = finished[max(finished, key=position.__getitem__)]
    return remove_dead(replace(program, ops=tuple(replaced.get(op.out, op) for op in program.ops)))


def fold_remaps(program: Program) -> Program:
    """Read through padding and nearest resizing instead of making their rows."""
    done: dict[Value, Op] = {}
    for op in program.ops:
        for value, _ in op.operands():
            if value in done:
                op = op.read_through(done[value]) or op
        done[op.out] = op
    return remove_dead(replace(program, ops=tuple(done.values())))
