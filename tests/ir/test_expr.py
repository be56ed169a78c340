"""Row expressions: substitution keeps the value."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retouch.ir.expr import Instr, is_row_wise, show, substitute
from retouch.ops.row_map import evaluate

UNARY = ["neg", "abs", "silu", "relu", "tanh", "sigmoid", "gelu", "hardswish", "row_mean"]
BINARY = ["add", "sub", "mul", "maximum", "minimum"]


@st.composite
def _exprs(draw, rows, vectors, acc=False):
    """An expression over `rows` row operands and `vectors` vectors."""
    loads = [Instr("rows", i) for i in range(rows)] + [Instr("vector", i) for i in range(vectors)]
    loads += [Instr("const", imm=0.5), *([Instr("acc")] if acc else [])]
    code = [draw(st.sampled_from(loads))]
    for _ in range(draw(st.integers(0, 8))):
        kind = draw(st.sampled_from(["load", "unary", "binary"]))
        register = st.integers(0, len(code) - 1)
        if kind == "load":
            code.append(draw(st.sampled_from(loads)))
        elif kind == "unary":
            code.append(Instr(draw(st.sampled_from(UNARY)), draw(register)))
        else:
            code.append(Instr(draw(st.sampled_from(BINARY)), draw(register), draw(register)))
    return tuple(code)


def _run(expr, rows, vectors, acc=None):
    wide = evaluate(expr, 4, [(r, None) for r in rows], vectors, None, acc)
    return wide.expand(4, 6)


@given(st.data(), st.integers(1, 3), st.integers(0, 2), st.integers(0, 3), st.integers(0, 2))
def test_substitute_is_evaluation_in_place(data, outer_rows, outer_vectors, inner_rows, inner_vectors):
    outer = data.draw(_exprs(outer_rows, outer_vectors))
    inner = data.draw(_exprs(inner_rows, inner_vectors, acc=True))
    operand = data.draw(st.integers(0, outer_rows - 1))
    made = torch.Generator().manual_seed(0)

    def noise(count, *shape):
        return [torch.randn(shape, generator=made) for _ in range(count)]

    rows, vectors = noise(inner_rows, 4, 6), noise(inner_vectors, 1, 6)
    others, other_vectors = noise(outer_rows - 1, 4, 6), noise(outer_vectors, 1, 6)
    acc = noise(1, 4, 6)[0]
    middle = _run(inner, rows, vectors, acc)
    operands = [*others[:operand], middle, *others[operand:]]
    expected = _run(outer, operands, other_vectors)

    merged = substitute(outer, inner, operand, inner_rows, inner_vectors)
    found = _run(merged, [*rows, *others], [*vectors, *other_vectors], acc)
    # PyTorch rounds a function of one number and of a row of them differently.
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5, equal_nan=True)


@given(st.data())
def test_instructions_read_earlier_registers_only(data):
    merged = substitute(data.draw(_exprs(2, 1)), data.draw(_exprs(2, 1)), 1, 2, 1)
    for i, ins in enumerate(merged):
        if ins.op in UNARY:
            assert ins.a < i
        elif ins.op in BINARY:
            assert max(ins.a, ins.b) < i


def test_unknown_instructions_are_refused():
    with pytest.raises(ValueError, match="unknown row instruction 'frobnicate'"):
        Instr("frobnicate")


def test_row_wise():
    assert is_row_wise((Instr("rows"), Instr("layer_norm", 0)))
    assert not is_row_wise((Instr("rows"), Instr("silu", 0)))


def test_show():
    code = (Instr("acc"), Instr("vector", 1), Instr("add", 0, 1), Instr("const", imm=2.0),
            Instr("mul", 2, 3), Instr("leaky_relu", 4, imm=0.2))  # fmt: skip
    assert show(code) == "leaky_relu(mul(add(acc, v1), 2), 0.2)"
