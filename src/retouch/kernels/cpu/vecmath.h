// Elementary functions on vectors, to a few units in the last place of float32.
//
// The polynomials are weighted minimax fits on the reduced range. NaN in gives NaN out: the clamps
// keep it.
#pragma once
#include "simd.h"

#include <cmath>

namespace retouch::RETOUCH_NS {

RETOUCH_INLINE vf at_least(vf x, float lo) {
  return max_of(set1(lo), x);
}
RETOUCH_INLINE vf at_most(vf x, float hi) {
  return min_of(set1(hi), x);
}
RETOUCH_INLINE vf abs_of(vf x) {
  return from_bits(bits(x) & 0x7fffffffu);
}
RETOUCH_INLINE vf copy_sign(vf x, vf sign) {
  return from_bits((bits(x) & 0x7fffffffu) | (bits(sign) & 0x80000000u));
}

// Coefficients from the constant term up.
template <int N>
RETOUCH_INLINE vf polynomial(vf x, const float (&c)[N]) {
  vf sum = set1(c[N - 1]);
#pragma GCC unroll 16
  for (int i = N - 2; i >= 0; --i) sum = fma(sum, x, set1(c[i]));
  return sum;
}

RETOUCH_INLINE vf exp_of(vf x) {
  constexpr float q[] = {0.499999995f, 0.166665764f, 0.0416668554f, 0.00836330003f, 0.00139013472f};
  constexpr float magic = 12582912.f; // 1.5 * 2^23: adding it rounds to an integer
  x = at_most(at_least(x, -105.f), 90.f);
  vf shifted = fma(x, set1(1.44269504f), set1(magic));
  vf k = shifted - magic;
  vf r = fma(k, set1(-0.693145752f), x);
  r = fma(k, set1(-1.42860677e-6f), r);
  vf e = fma(r * r, polynomial(r, q), r) + 1.f;
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_scalef_ps(__mmask16(-1), (__m512)e, (__m512)k);
#else
  // Two factors, so that results below the normal range and above the largest number come out.
  vi n = (vi)bits(shifted) - (vi)bits(set1(magic)), half = n >> 1;
  return e * from_bits((vu)(half + 127) << 23) * from_bits((vu)(n - half + 127) << 23);
#endif
}

// exp(x) - 1 without cancellation near zero.
RETOUCH_INLINE vf expm1_of(vf x) {
  constexpr float q[] = {0.500000012f,  0.166666655f,   0.0416657959f,
                         0.0083334522f, 0.00139819973f, 0.000198756199f};
  vf small = fma(x * x, polynomial(x, q), x);
  return abs_of(x) < 0.5f ? small : exp_of(x) - 1.f;
}

RETOUCH_INLINE vf log_of(vf x) {
  constexpr float q[] = {0.333333113f,  -0.250000078f, 0.200022165f,  -0.166681873f, 0.142175435f,
                         -0.124005438f, 0.118988882f,  -0.117131034f, 0.0676851574f};
  const vf infinity = set1(__builtin_inff());
  vi tiny = x < 1.17549435e-38f;
  vf scaled = tiny ? x * 8388608.f : x;
  // Exponent and mantissa in [sqrt(1/2), sqrt(2)).
  vu u = bits(scaled) - 0x3f3504f3u;
  vf e = __builtin_convertvector((vi)u >> 23, vf) - (tiny ? set1(23.f) : vf{});
  vf r = from_bits((u & 0x007fffffu) + 0x3f3504f3u) - 1.f;
  vf r2 = r * r;
  vf tail = fma(r2 * r, polynomial(r, q), r2 * -0.5f);
  vf y = fma(e, set1(0.693145752f), r + fma(e, set1(1.42860677e-6f), tail));
  y = x == 0.f ? -infinity : y;
  y = x == infinity ? infinity : y;
  return (x < 0.f) | (x != x) ? set1(__builtin_nanf("")) : y;
}

// log(1 + x) of what is less than infinity; the quotient repairs what 1 + x loses to rounding.
RETOUCH_INLINE vf log1p_of(vf x) {
  vf u = x + 1.f;
  vf d = u - 1.f;
  return d == 0.f ? x : log_of(u) * (x / d);
}

RETOUCH_INLINE vf tanh_of(vf x) {
  constexpr float q[] = {-0.333333331f, 0.133332964f,    -0.0539576f,
                         0.0217557337f, -0.00830178782f, 0.00224609359f};
  vf s = x * x;
  vf small = fma(x * s, polynomial(s, q), x);
  vf a = abs_of(x);
  vf large = copy_sign(1.f - 2.f / (exp_of(a + a) + 1.f), x);
  return a < 0.625f ? small : large;
}

RETOUCH_INLINE vf erf_of(vf x) {
  constexpr float p[] = {1.12837917f,    -0.376126316f,    0.11283664f,    -0.0268577051f,
                         0.00519695202f, -0.000809770276f, 8.18509088e-05f};
  constexpr float q[] = {-0.000153382185f, 1.12939706f,    0.633627316f,
                         0.107905702f,     -0.0248127919f, 0.00401339487f,
                         -0.000384784979f, 1.2329888e-05f, 6.62820534e-07f};
  vf a = at_most(abs_of(x), 4.f);
  vf small = x * polynomial(x * x, p);
  vf large = copy_sign(1.f - exp_of(-polynomial(a, q)), x);
  return abs_of(x) < 0.92f ? small : large;
}

RETOUCH_INLINE vf sigmoid_of(vf x) {
  return 1.f / (exp_of(-x) + 1.f);
}
RETOUCH_INLINE vf silu_of(vf x) {
  return x / (exp_of(-x) + 1.f);
}
RETOUCH_INLINE vf gelu_of(vf x) {
  return x * 0.5f * (erf_of(x * 0.707106781f) + 1.f);
}

RETOUCH_INLINE vf gelu_tanh_of(vf x) {
  vf inner = x * fma(x * x, set1(0.0356774081f), set1(0.797884561f));
  return x * 0.5f * (tanh_of(inner) + 1.f);
}

RETOUCH_INLINE vf softplus_of(vf x) {
  return (x < 0.f ? vf{} : x) + log1p_of(exp_of(-abs_of(x)));
}

// Functions that few models use go through the scalar library.
template <class F>
RETOUCH_INLINE vf each_of(vf x, F f) {
  for (int i = 0; i < lanes; ++i) x[i] = f(x[i]);
  return x;
}

// The powers that models use; anything else goes through the scalar library.
RETOUCH_INLINE vf pow_of(vf x, float y) {
  if (y == 2.f) return x * x;
  if (y == 3.f) return x * x * x;
  if (y == 0.5f) return sqrt_of(x);
  if (y == -0.5f) return 1.f / sqrt_of(x);
  if (y == -1.f) return 1.f / x;
  return each_of(x, [=](float v) { return powf(v, y); });
}

} // namespace retouch::RETOUCH_NS
