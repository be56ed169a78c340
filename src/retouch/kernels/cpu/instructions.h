// The one list of what row programs compute: the name of each instruction and its formula, with
// operands x and y and the constant imm of the instruction. From it come the enumeration, the names
// that Python uses and the interpreter. Meant as in src/retouch/ir/instructions.py.
#pragma once

#define RETOUCH_BINARY(X)                                                                          \
  X(add, x + y)                                                                                    \
  X(sub, x - y)                                                                                    \
  X(mul, (x * y))                                                                                  \
  X(div, x / y)                                                                                    \
  X(maximum, (x > y) | (x != x) ? x : y)                                                           \
  X(minimum, (x < y) | (x != x) ? x : y)                                                           \
  X(lt, x < y ? set1(1.f) : vf{})                                                                  \
  X(le, x <= y ? set1(1.f) : vf{})                                                                 \
  X(eq, x == y ? set1(1.f) : vf{})                                                                 \
  X(masked, y != 0.f ? x : set1(-0.f))

#define RETOUCH_UNARY(X)                                                                           \
  X(neg, -x)                                                                                       \
  X(abs, abs_of(x))                                                                                \
  X(reciprocal, 1.f / x)                                                                           \
  X(sqrt, sqrt_of(x))                                                                              \
  X(rsqrt, 1.f / sqrt_of(x))                                                                       \
  X(exp, exp_of(x))                                                                                \
  X(expm1, expm1_of(x))                                                                            \
  X(log, log_of(x))                                                                                \
  X(log1p, x < __builtin_inff() ? log1p_of(x) : x)                                                 \
  X(sin, each_of(x, sinf))                                                                         \
  X(cos, each_of(x, cosf))                                                                         \
  X(erf, erf_of(x))                                                                                \
  X(floor, each_of(x, floorf))                                                                     \
  X(silu, silu_of(x))                                                                              \
  X(gelu, gelu_of(x))                                                                              \
  X(gelu_tanh, gelu_tanh_of(x))                                                                    \
  X(relu, at_least(x, 0.f))                                                                        \
  X(leaky_relu, x < 0.f ? x * imm : x)                                                             \
  X(tanh, tanh_of(x))                                                                              \
  X(sigmoid, sigmoid_of(x))                                                                        \
  X(pow, pow_of(x, imm))                                                                           \
  X(hardswish, (x * at_most(at_least(x + 3.f, 0.f), 6.f) / 6.f))                                   \
  X(hardsigmoid, at_most(at_least(x + 3.f, 0.f), 6.f) / 6.f)                                       \
  X(elu, x > 0.f ? x : expm1_of(x) * imm)                                                          \
  X(softplus, softplus_of(x))

// They read whole rows, or heads; their formulas are in program.cpp.
#define RETOUCH_ROW_WISE(X) X(layer_norm) X(rms_norm) X(row_mean) X(row_max) X(swap)
