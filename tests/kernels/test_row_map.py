"""Row programs against their reference."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels import cases
from kernels.cases import Random, assert_close, check, native, on_isa
from retouch.ir.expr import Instr
from retouch.ir.instructions import BINARY, ROW_WISE, UNARY
from retouch.kernels import cpu

IMM = {"leaky_relu": 0.1, "pow": 2.0, "elu": 1.3, "layer_norm": 1e-5, "rms_norm": 1e-6}
POSITIVE = {"sqrt", "rsqrt", "log", "log1p", "pow"}


@st.composite
def programs(draw, rows: int, vectors: int):
    """A random program over `rows` row operands and `vectors` vectors; ops that keep values moderate."""
    code = [Instr("rows", i) for i in range(rows)] + [Instr("vector", i) for i in range(vectors)]
    code.append(Instr("const", imm=draw(st.sampled_from([0.5, -1.0, 2.0]))))
    smooth = ["silu", "gelu", "gelu_tanh", "relu", "tanh", "sigmoid", "hardswish", "softplus", "neg"]
    for _ in range(draw(st.integers(1, 8))):
        a, b = draw(st.integers(0, len(code) - 1)), draw(st.integers(0, len(code) - 1))
        op = draw(st.sampled_from(["add", "mul", "sub", "maximum", "add", "mul", *smooth, "layer_norm"]))
        code.append(Instr(op, a, b if op in BINARY else 0, IMM.get(op, 0.0)))
    return tuple(code)


@given(isa=cases.isas, seed=cases.seeds, dtype=cases.dtypes, out_dtype=cases.dtypes, m=st.integers(1, 40),
       width=cases.channels, program=programs(2, 2), narrow=st.booleans(), threads=cases.threads)  # fmt: skip
def test_random_programs(isa, seed, dtype, out_dtype, m, width, program, narrow, threads):
    random = Random(seed)
    first = (random.rows(m + 4, width, dtype), random.index(-1, m + 4, m))
    second = (random.rows(m, 1 if narrow else width), None)
    vectors = [random.rows(1, width), random.rows(3, 1 if narrow else width)]
    sample = random.index(0, 3, m).sort().values
    with on_isa(isa, threads):
        check("row_map", random.rows(m, width, out_dtype), None, program, [first, second], vectors, sample,
              bound=2e-4 if any(i.op == "layer_norm" for i in program) else 3e-6)  # fmt: skip


@pytest.mark.parametrize("isa", cases.ISAS)
@pytest.mark.parametrize("op", sorted(UNARY | ROW_WISE))
def test_every_unary(isa, op):
    random = Random(3)
    x = random.rows(37, 83) * 3
    x = x.abs() + 1e-3 if op in POSITIVE else x
    with on_isa(isa):
        check("row_map", torch.empty(37, 83), None, (Instr("rows"), Instr(op, 0, 0, IMM.get(op, 0.0))),
              [(x, None)], [], None)  # fmt: skip


@pytest.mark.parametrize("isa", cases.ISAS)
@pytest.mark.parametrize("op", sorted(BINARY))
def test_every_binary(isa, op):
    random = Random(4)
    x, y = random.rows(21, 50), random.rows(21, 50)
    y[::2] = x[::2]
    y[1::4] = 0
    x[:, 0] = 1  # over zero that is infinity, not NaN
    with on_isa(isa):
        check("row_map", torch.empty(21, 50), None, (Instr("rows", 0), Instr("rows", 1), Instr(op, 0, 1)),
              [(x, None), (y, None)], [], None)  # fmt: skip


EXTREMES = [0.0, -0.0, 1e-42, -1e-42, 1e-10, 0.3, -0.6, 20.0, -20.0, 87.0, -87.0, 88.8, 100.0, -100.0, -104.0,
            1e30, -1e30, math.inf, -math.inf, math.nan]  # fmt: skip


@pytest.mark.parametrize("isa", cases.ISAS)
@pytest.mark.parametrize("op", sorted(UNARY))
def test_extreme_values(isa, op):
    """Infinities, NaN, subnormal and large arguments give what PyTorch gives."""
    x = torch.tensor([EXTREMES])
    if op == "gelu":  # PyTorch's own gelu of infinity is NaN on some processors
        x = x[x.isinf().logical_not()][None]
    program = (Instr("rows"), Instr(op, 0, 0, IMM.get(op, 0.0)))
    with on_isa(isa):
        got = native("row_map", torch.empty(1, x.shape[1]), None, program, [(x, None)], [], None)
    wanted = cases.expected("row_map", torch.empty(1, x.shape[1]), None, program, [(x, None)], [], None)
    assert torch.equal(torch.isnan(got), torch.isnan(wanted))
    assert torch.allclose(got, wanted, rtol=1e-5, atol=1e-35, equal_nan=True)


@pytest.mark.parametrize("isa", cases.ISAS)
@pytest.mark.parametrize(("op", "low", "high"), [
    ("exp", -80, 80), ("log", 1e-6, 1e6), ("tanh", -10, 10), ("sigmoid", -80, 80), ("silu", -60, 60),
    ("softplus", -60, 19), ("log1p", -0.99, 1e3), ("expm1", -20, 20), ("elu", -20, 5),
    ("gelu", -0.5, 6), ("gelu_tanh", -0.5, 6),
])  # fmt: skip
def test_relative_accuracy(isa, op, low, high):
    x = torch.linspace(low, high, 20000).reshape(20, 1000)
    program = (Instr("rows"), Instr(op, 0, 0, 1.0))
    with on_isa(isa):
        got = native("row_map", torch.empty_like(x), None, program, [(x, None)], [], None)
    wanted = cases.expected("row_map", torch.empty_like(x).double(), None, program, [(x.double(), None)], [], None)
    double = {
        "exp": torch.exp,
        "log": torch.log,
        "log1p": torch.log1p,
        "expm1": torch.expm1,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
    }
    if op in double:
        wanted = double[op](x.double())
    error = (got.double() - wanted.double()).abs() / wanted.double().abs().clamp(min=1e-30)
    assert float(error.max()) < 6e-7


@pytest.mark.parametrize("isa", cases.ISAS)
def test_wide_rows(isa):
    """Rows wider than a tile, with and without a whole-row step."""
    random = Random(5)
    x = random.rows(3, 5000)
    with on_isa(isa):
        for program in ((Instr("rows"), Instr("silu", 0)), (Instr("rows"), Instr("layer_norm", 0, 0, 1e-5))):
            check("row_map", torch.empty(3, 5000), None, program, [(x, None)], [], None)


def test_mean_into_one_channel():
    x = torch.randn(6, 40)
    program = (Instr("rows"), Instr("row_mean", 0))
    for dtype in (torch.float32, torch.bfloat16):
        got = native("row_map", torch.empty(6, 1, dtype=dtype), None, program, [(x, None)], [], None)
        assert_close(got, x.mean(1, keepdim=True), 1e-6)


@given(isa=cases.isas, seed=cases.seeds, dtype=cases.dtypes, width=cases.channels, threads=cases.threads)
def test_rows_are_independent(isa, seed, dtype, width, threads):
    random = Random(seed)
    program = (Instr("rows"), Instr("layer_norm", 0, 0, 1e-5), Instr("vector"), Instr("mul", 1, 2), Instr("silu", 3))
    x, scale, where = random.rows(60, width, dtype), random.rows(1, width), random.distinct(7, 60)
    out = torch.zeros(60, width, dtype=dtype)
    with on_isa(isa, threads):
        whole = native("row_map", out, None, program, [(x, None)], [scale], None)
        part = native("row_map", out, where, program, [(x, where)], [scale], None)
    assert torch.equal(part[where.long()], whole[where.long()])
    assert part.count_nonzero(1).count_nonzero() <= 7


@pytest.mark.parametrize(("code", "message"), [
    ([], "needs an instruction"),
    ([("shrug", 0, 0, 0)], "instruction 0: unknown op 'shrug'"),
    ([("rows", 0, 0, 0), ("add", 0, 1, 0)], r"instruction 1 \(add\): operand 1 is not an earlier register"),
    ([("rows", -1, 0, 0)], "negative"),
    ([("rows", 0, 0, 0), ("acc", 0, 0, 0)], "instruction 0 only"),
])  # fmt: skip
def test_bad_programs(code, message):
    with pytest.raises(ValueError, match=message):
        cpu.Program(code)


def test_bad_instructions():
    with pytest.raises(TypeError, match="op: str"):
        cpu.Program([("rows", "x", 0, 0.0)])
    with pytest.raises(ValueError, match=r"\(op, a, b, imm\)"):
        cpu.Program([("rows", 0)])


def test_bad_operands():
    out, x = cpu.Rows(torch.empty(5, 8)), cpu.Rows(torch.randn(5, 8))
    program = cpu.Program([("rows", 0, 0, 0), ("vector", 0, 0, 0), ("mul", 0, 1, 0)])
    vector = cpu.Rows(torch.randn(2, 8))
    with pytest.raises(ValueError, match="width of a vector operand is 7, expected 8"):
        cpu.row_map(out, None, program, [(x, None)], [cpu.Rows(torch.randn(1, 7))])
    sample = cpu.Index(torch.tensor([0, 0, 1, 1, 2], dtype=torch.int32))
    with pytest.raises(ValueError, match="2 samples, but sample 2 is used"):
        cpu.row_map(out, None, program, [(x, None)], [vector], sample)
    with pytest.raises(ValueError, match="reads 1 row operands and 1 vectors; got 0 and 1"):
        cpu.row_map(out, None, program, [], [vector])
    with pytest.raises(ValueError, match="5 rows wanted of 4"):
        cpu.row_map(out, None, program, [(cpu.Rows(torch.randn(4, 8)), None)], [vector])
    with pytest.raises(TypeError, match="list of"):
        cpu.row_map(out, None, program, [3], [vector])
    with pytest.raises(ValueError, match="'acc' has no meaning"):
        cpu.row_map(out, None, cpu.Program([("acc", 0, 0, 0)]))
