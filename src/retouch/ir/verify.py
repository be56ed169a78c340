"""The rules that a program keeps after every pass."""

from __future__ import annotations

from retouch.ir.program import Program
from retouch.ir.value import Value


class VerificationError(AssertionError):
    """A program breaks a rule of the IR; always a defect of the pass named in the text."""


def verify(program: Program, stage: str) -> Program:
    """Check that every operand is defined before its use and every value once; returns `program`."""
    defined: set[Value] = {*program.inputs, *program.constants}
    for op in program.ops:
        missing = [v.name for v in op.inputs() if v not in defined]
        if missing:
            raise VerificationError(f"after {stage}: {op.out.name} reads {missing} before definition")
        if op.out in defined:
            raise VerificationError(f"after {stage}: {op.out.name} is defined twice")
        for value, _ in op.operands():
            if value.grid is None:
                raise VerificationError(f"after {stage}: {op.out.name} reads rows of {value.name}, which has none")
        defined.add(op.out)
    for output in program.outputs:
        if output.value is not None and output.value not in defined:
            raise VerificationError(f"after {stage}: output {output.value.name} is never computed")
    return program
