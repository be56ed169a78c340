"""Pointwise expressions over rows: what is fused into gathers and epilogues.

An expression is a tuple of instructions in single-assignment form. Instruction i defines register i, one
row of C numbers; the last instruction is the result. Everything is computed in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

from retouch.ir.instructions import BINARY, LOADS, ROW_WISE, UNARY

KNOWN = LOADS.union(BINARY, UNARY, ROW_WISE)


@dataclass(frozen=True)
class Instr:
    """`op` applied to registers `a`, `b` (a load: operand number `a`) with the constant `imm`."""

    op: str
    a: int = 0
    b: int = 0
    imm: float = 0.0

    def __post_init__(self) -> None:
        if self.op not in KNOWN:
            raise ValueError(f"unknown row instruction {self.op!r}")


Expr = tuple[Instr, ...]


def is_row_wise(expr: Expr) -> bool:
    """Whether a register of `expr` depends on a whole row."""
    return any(i.op in ROW_WISE for i in expr)


def substitute(outer: Expr, inner: Expr, operand: int, inner_rows: int, inner_vectors: int) -> Expr:
    """`outer` with its row operand `operand` replaced by `inner`.

    The operands of the result are: rows = inner's, then outer's without `operand`; vectors = inner's, then
    outer's. `inner_rows` and `inner_vectors` count inner's operands.
    """
    code = list(inner)
    root = len(inner) - 1
    register: dict[int, int] = {}
    for i, ins in enumerate(outer):
        if ins.op == "rows" and ins.a == operand:
            register[i] = root
            continue
        register[i] = len(code)
        if ins.op == "rows":
            code.append(Instr("rows", inner_rows + ins.a - (ins.a > operand)))
        elif ins.op == "vector":
            code.append(Instr("vector", inner_vectors + ins.a))
        elif ins.op in LOADS:
            code.append(ins)
        else:
            code.append(Instr(ins.op, register[ins.a], register[ins.b] if ins.op in BINARY else 0, ins.imm))
    if register[len(outer) - 1] == root:
        return tuple(inner)
    return tuple(code)


def show(expr: Expr) -> str:
    """One line of readable text."""
    text: list[str] = []
    for ins in expr:
        if ins.op == "const":
            text.append(f"{ins.imm:g}")
        elif ins.op in LOADS:
            text.append("acc" if ins.op == "acc" else f"{ins.op[0]}{ins.a}")
        elif ins.op in BINARY:
            text.append(f"{ins.op}({text[ins.a]}, {text[ins.b]})")
        else:
            text.append(f"{ins.op}({text[ins.a]}{f', {ins.imm:g}' if ins.imm else ''})")
    return text[-1]
