"""Pointwise expressions inside kernels: unrolled when a kernel is compiled, one register per instruction."""

from __future__ import annotations

import triton
import triton.language as tl

from retouch.ir.instructions import BINARY, ROW_WISE

for_any_rows = triton.jit(do_not_specialize=["M"])
"""Compiles a kernel once for any number of rows `M`, which every edit has another one of."""


@triton.constexpr_function
def is_binary(op):
    return op in BINARY


@triton.constexpr_function
def is_row_wise(op):
    return op in ROW_WISE


@triton.constexpr_function
def length(code):
    return len(code)


@triton.constexpr_function
def field(code, i, j):
    return code[i][j]


@triton.constexpr_function
def is_whole(x):
    return x == int(x)


@triton.jit
def _tanh(x):
    """A series near zero, where the quotient of exponentials cancels."""
    s = x * x
    near = x * (1.0 + s * (-1.0 / 3 + s * (2.0 / 15 + s * (-17.0 / 315 + s * (62.0 / 2835)))))
    e = tl.exp(-2.0 * tl.abs(x))
    far = (1.0 - e) / (1.0 + e)
    return tl.where(tl.abs(x) < 0.25, near, tl.where(x < 0, -far, far))


@triton.jit
def _expm1(x):
    """A series near zero, where the difference cancels."""
    near = x * (1.0 + x / 2 * (1.0 + x / 3 * (1.0 + x / 4 * (1.0 + x / 5 * (1.0 + x / 6 * (1.0 + x / 7))))))
    return tl.where(tl.abs(x) < 0.25, near, tl.exp(x) - 1.0)


@triton.jit
def _log1p(x):
    """The quotient repairs what 1 + x loses to rounding."""
    u = 1.0 + x
    d = u - 1.0
    y = tl.where(d == 0.0, x, tl.log(u) * (x / d))
    return tl.where(x == float("inf"), x, y)


@triton.jit
def _power(x, exponent: tl.constexpr):
    if exponent == 0.5:
        y = tl.sqrt(x)
    else:
        y = tl.exp(exponent * tl.log(tl.abs(x)))
        y = tl.where(x == 0, 0.0 if exponent > 0 else float("inf"), y)
        negative = -y
        if not is_whole(exponent):
            negative = tl.full(y.shape, float("nan"), tl.float32)
        elif exponent % 2 == 0:
            negative = y
        y = tl.where(x < 0, negative, y)
    return y


@triton.jit
def _square_or_power(x, exponent: tl.constexpr):
    if exponent == 2:
        y = x * x
    elif exponent == 3:
        y = x * x * x
    else:
        y = _power(x, exponent)
    return y


@triton.jit
def _activation(op: tl.constexpr, x, imm: tl.constexpr):
    if op == "silu":
        y = x * tl.sigmoid(x)
    elif op == "gelu":
        y = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif op == "gelu_tanh":
        y = 0.5 * x * (1.0 + _tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))
    elif op == "relu":
        y = tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
    elif op == "leaky_relu":
        y = tl.where(x > 0, x, x * imm)
    elif op == "sigmoid":
        y = tl.sigmoid(x)
    elif op == "hardswish":
        y = x * tl.minimum(tl.maximum(x + 3.0, 0.0), 6.0) / 6.0
    elif op == "hardsigmoid":
        y = tl.minimum(tl.maximum(x + 3.0, 0.0), 6.0) / 6.0
    elif op == "elu":
        y = tl.where(x > 0, x, imm * (tl.exp(tl.minimum(x, 0.0)) - 1.0))
    elif op == "softplus":
        y = tl.where(x > 20.0, x, tl.maximum(x, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(x))))
    else:
        tl.static_assert(op == "tanh", "an instruction without a Triton form")
        y = _tanh(x)
    return y


@triton.jit
def _unary(op: tl.constexpr, x, imm: tl.constexpr):
    if op == "neg":
        y = -x
    elif op == "abs":
        y = tl.abs(x)
    elif op == "reciprocal":
        y = 1.0 / x
    elif op == "sqrt":
        y = tl.sqrt(x)
    elif op == "rsqrt":
        y = 1.0 / tl.sqrt(x)
    elif op == "exp":
        y = tl.exp(x)
    elif op == "expm1":
        y = _expm1(x)
    elif op == "log":
        y = tl.log(x)
    elif op == "log1p":
        y = _log1p(x)
    elif op == "sin":
        y = tl.sin(x)
    elif op == "cos":
        y = tl.cos(x)
    elif op == "erf":
        y = tl.erf(x)
    elif op == "floor":
        y = tl.floor(x)
    elif op == "pow":
        y = _square_or_power(x, imm)
    else:
        y = _activation(op, x, imm)
    return y


@triton.jit
def _binary(op: tl.constexpr, x, y):
    if op == "add":
        z = x + y
    elif op == "sub":
        z = x - y
    elif op == "mul":
        z = x * y
    elif op == "div":
        z = x / y
    elif op == "maximum":
        z = tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)
    elif op == "minimum":
        z = tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL)
    elif op == "lt":
        z = (x < y).to(tl.float32)
    elif op == "le":
        z = (x <= y).to(tl.float32)
    elif op == "eq":
        z = (x == y).to(tl.float32)
    else:
        tl.static_assert(op == "masked", "an instruction without a Triton form")
        z = tl.where(y != 0.0, x, -0.0)
    return z


@triton.jit
def _row_wise(op: tl.constexpr, x, imm: tl.constexpr, inside, width):
    """`x` holds whole rows of `width` channels; `inside` is False in the columns beyond."""
    held = tl.where(inside, x, 0.0)
    if op == "swap":
        if x.shape[1] == 1:
            y = tl.zeros_like(x)
        else:
            first, second = tl.split(tl.reshape(held, (x.shape[0], x.shape[1] // 2, 2)))
            y = tl.reshape(tl.join(second, first), x.shape)
    elif op == "rms_norm":
        y = x / tl.sqrt(tl.sum(held * held, 1) / width + imm)[:, None]
    elif op == "row_max":
        y = tl.max(tl.where(inside, x, float("-inf")), 1)[:, None] + tl.zeros_like(x)
    else:
        mean = (tl.sum(held, 1) / width)[:, None]
        if op == "layer_norm":
            centred = tl.where(inside, x - mean, 0.0)
            y = centred / tl.sqrt(tl.sum(centred * centred, 1) / width + imm)[:, None]
        else:
            y = mean + tl.zeros_like(x)
    return y


@triton.jit
def block(M, C, BM: tl.constexpr, BC: tl.constexpr):
    """Rows `m` and columns `c` of a program of a two-dimensional grid, and which of them there are."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    return m, c, (m < M)[:, None] & (c < C)[None, :]


@triton.jit
def look_up(index, at, here):
    """The rows that entries `at` of an index name, -1 where not `here`; without an index `at` itself."""
    row = at
    if index is not None:
        row = tl.load(index + at, mask=here, other=-1)
    return row


@triton.jit
def _step(code: tl.constexpr, i: tl.constexpr, registers, acc, m, c, inside, width, rows, vectors, sample, before):
    op: tl.constexpr = field(code, i, 0)
    a: tl.constexpr = field(code, i, 1)
    b: tl.constexpr = field(code, i, 2)
    imm: tl.constexpr = field(code, i, 3)
    if op == "acc":
        y = acc
    elif op == "const":
        y = tl.full(inside.shape, imm, tl.float32)
    elif op == "rows":
        x, stride, step, by_head, index = rows[a]
        row = look_up(index, m, tl.max(inside.to(tl.int32), 1) > 0).to(tl.int64)
        valid = inside & (row >= 0)[:, None]
        y = tl.load(x + row[:, None] * stride + (c * step + before * by_head)[None, :], mask=valid, other=0.0)
        y = y.to(tl.float32)
    elif op == "vector":
        x, stride, step, by_head = vectors[a]
        row = tl.zeros_like(m).to(tl.int64)
        if sample is not None:
            row = tl.load(sample + m, mask=tl.max(inside.to(tl.int32), 1) > 0, other=0).to(tl.int64)
        y = tl.load(x + row[:, None] * stride + (c * step + before * by_head)[None, :], mask=inside, other=0.0)
        y = y.to(tl.float32)
    elif is_binary(op):
        y = _binary(op, registers[a], registers[b])
    elif is_row_wise(op):
        y = _row_wise(op, registers[a], imm, inside, width)
    else:
        y = _unary(op, registers[a], imm)
    return y


@triton.jit
def evaluate(code: tl.constexpr, acc, m, c, inside, width, rows, vectors, sample, before=0):
    """The value of an expression for output rows `m` and columns `c`, float32 of the shape of `inside`.

    In a head that has `before` channels before it, columns are its own.
    """
    registers = tl.tuple([])
    for i in tl.static_range(length(code)):
        registers += (_step(code, i, registers, acc, m, c, inside, width, rows, vectors, sample, before),)
    return registers[length(code) - 1]


@triton.jit
def store(out, stride, index, m, c, inside, y):
    """`out[index[m], c] = y`, rounded to the dtype of `out`; nothing where the index is -1."""
    row = look_up(index, m, tl.max(inside.to(tl.int32), 1) > 0).to(tl.int64)
    here = inside & (row >= 0)[:, None]
    tl.store(out + row[:, None] * stride + c[None, :], y.to(out.dtype.element_ty), mask=here)
