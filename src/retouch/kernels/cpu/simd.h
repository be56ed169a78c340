// One vector type per instruction set, on GCC/Clang vector extensions.
//
// Included by sources that are compiled once per instruction set with RETOUCH_NS naming the
// namespace. Arithmetic and comparisons are the plain operators; what they lack is here.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define RETOUCH_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define RETOUCH_VECTOR_BYTES 32
#else
#define RETOUCH_VECTOR_BYTES 16
#endif

#if defined(__AVX512F__) || defined(__aarch64__)
#define RETOUCH_REGISTERS 32
#else
#define RETOUCH_REGISTERS 16
#endif

#define RETOUCH_INLINE static inline __attribute__((always_inline))

namespace retouch::RETOUCH_NS {

struct bf16 {
  uint16_t bits;
};

typedef float vf __attribute__((vector_size(RETOUCH_VECTOR_BYTES)));
typedef int32_t vi __attribute__((vector_size(RETOUCH_VECTOR_BYTES)));
typedef uint32_t vu __attribute__((vector_size(RETOUCH_VECTOR_BYTES)));
typedef uint16_t vh __attribute__((vector_size(RETOUCH_VECTOR_BYTES / 2)));
typedef double vd __attribute__((vector_size(RETOUCH_VECTOR_BYTES)));
typedef float vf_half __attribute__((vector_size(RETOUCH_VECTOR_BYTES / 2)));

constexpr int lanes = RETOUCH_VECTOR_BYTES / 4;
// Columns of a packed panel and rows of a register block, in what the register file holds.
constexpr int max_vectors = RETOUCH_REGISTERS == 32 ? 4 : 2;
constexpr int block_rows(int vectors) {
  if (RETOUCH_REGISTERS == 16) return 6;
  return vectors == 4 ? 6 : vectors == 3 ? 8 : 12;
}

RETOUCH_INLINE int64_t min_of(int64_t a, int64_t b) {
  return a < b ? a : b;
}
RETOUCH_INLINE int64_t max_of(int64_t a, int64_t b) {
  return a > b ? a : b;
}
RETOUCH_INLINE int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
RETOUCH_INLINE int64_t round_up(int64_t a, int64_t b) {
  return ceil_div(a, b) * b;
}

RETOUCH_INLINE vf set1(float x) {
  return x - vf{}; // compilers drop it; x + 0 they must not, since -0 would become 0
}
RETOUCH_INLINE vu bits(vf x) {
  return (vu)x;
}
RETOUCH_INLINE vf from_bits(vu x) {
  return (vf)x;
}

RETOUCH_INLINE vf fma(vf a, vf b, vf c) {
#if defined(__AVX512F__)
  return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

RETOUCH_INLINE vf sqrt_of(vf x) {
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_sqrt_ps(__mmask16(-1), (__m512)x);
#elif defined(__AVX2__)
  return (vf)_mm256_sqrt_ps((__m256)x);
#elif defined(__x86_64__)
  return (vf)_mm_sqrt_ps((__m128)x);
#elif defined(__aarch64__)
  return (vf)vsqrtq_f32((float32x4_t)x);
#else
  for (int i = 0; i < lanes; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

// a > b ? a : b, in one instruction: a NaN in b comes through, a NaN in a does not.
RETOUCH_INLINE vf max_of(vf a, vf b) {
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_max_ps(__mmask16(-1), (__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__x86_64__)
  return (vf)_mm_max_ps((__m128)a, (__m128)b);
#else
  return a > b ? a : b;
#endif
}

RETOUCH_INLINE vf min_of(vf a, vf b) {
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_min_ps(__mmask16(-1), (__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__x86_64__)
  return (vf)_mm_min_ps((__m128)a, (__m128)b);
#else
  return a < b ? a : b;
#endif
}

// Loads and stores of whole vectors, converting bf16 (round to nearest even) on the way.

RETOUCH_INLINE vf load(const float* p) {
  vf x;
  memcpy(&x, p, sizeof(x));
  return x;
}

RETOUCH_INLINE vu widen_bits(vh x) {
#if defined(__AVX512F__)
  return (vu)_mm512_maskz_cvtepu16_epi32(__mmask16(-1), (__m256i)x);
#elif defined(__AVX2__)
  return (vu)_mm256_cvtepu16_epi32((__m128i)x);
#else
  return __builtin_convertvector(x, vu);
#endif
}

RETOUCH_INLINE vf widen(vh x) {
  return from_bits(widen_bits(x) << 16);
}

RETOUCH_INLINE vu round_to_bf16(vf x) {
  vu u = bits(x);
  vu rounded = u + 0x7fff + ((u >> 16) & 1);
  return (vu)((x != x) ? (vi)(u | 0x400000) : (vi)rounded) >> 16;
}

RETOUCH_INLINE vh narrow(vf x) {
#if defined(__AVX512BF16__)
  return (vh)_mm512_cvtneps_pbh((__m512)x);
#else
  return __builtin_convertvector(round_to_bf16(x), vh);
#endif
}

RETOUCH_INLINE vf load(const bf16* p) {
  vh x;
  memcpy(&x, p, sizeof(x));
  return widen(x);
}

RETOUCH_INLINE void store(float* p, vf x) {
  memcpy(p, &x, sizeof(x));
}
RETOUCH_INLINE void store(bf16* p, vf x) {
  vh h = narrow(x);
  memcpy(p, &h, sizeof(h));
}

RETOUCH_INLINE float to_float(float x) {
  return x;
}
RETOUCH_INLINE float to_float(bf16 x) {
  uint32_t bits = uint32_t(x.bits) << 16;
  float y;
  memcpy(&y, &bits, sizeof(y));
  return y;
}

// The first n lanes only (0 < n <= lanes); the others load as zero.

RETOUCH_INLINE vf load_part(const float* p, int64_t n) {
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p);
#else
  vf x{};
  memcpy(&x, p, n * sizeof(float));
  return x;
#endif
}

RETOUCH_INLINE vf load_part(const bf16* p, int64_t n) {
#if defined(__AVX512F__)
  return widen((vh)_mm256_maskz_loadu_epi16(__mmask16((1u << n) - 1), p));
#else
  vh x{};
  memcpy(&x, p, n * sizeof(bf16));
  return widen(x);
#endif
}

RETOUCH_INLINE void store_part(float* p, vf x, int64_t n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), (__m512)x);
#else
  memcpy(p, &x, n * sizeof(float));
#endif
}

RETOUCH_INLINE void store_part(bf16* p, vf x, int64_t n) {
  vh h = narrow(x);
#if defined(__AVX512F__)
  _mm256_mask_storeu_epi16(p, __mmask16((1u << n) - 1), (__m256i)h);
#else
  memcpy(p, &h, n * sizeof(bf16));
#endif
}

// acc + low(a)*low(b) + high(a)*high(b) over pairs of bf16 held in 32-bit lanes.
RETOUCH_INLINE vf dot_pairs(vf acc, vu a, vu b) {
#if defined(__AVX512BF16__)
  return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b);
#else
  acc = fma(from_bits(a << 16), from_bits(b << 16), acc);
  return fma(from_bits(a & 0xffff0000u), from_bits(b & 0xffff0000u), acc);
#endif
}

// Sums of products of int8: four of a row in a 32-bit word, four of each column in a lane. Where
// the instruction takes one operand without sign, that of the row is moved by `level_offset`.
// Elsewhere products of 16 bits take two passes, of even and odd bytes.
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
constexpr int32_t level_offset = 128;
#else
constexpr int32_t level_offset = 0;
#endif
#if !defined(__AVX512VNNI__) && !defined(__AVXVNNI__) && defined(__x86_64__)
constexpr int level_passes = 2;
#else
constexpr int level_passes = 1;
#endif

// The bytes of `x` that a pass multiplies.
RETOUCH_INLINE vu pass_of(vu x, [[maybe_unused]] int pass) {
#if !defined(__AVX512VNNI__) && !defined(__AVXVNNI__) && defined(__x86_64__)
  typedef int16_t vs __attribute__((vector_size(RETOUCH_VECTOR_BYTES)));
  vs pairs = (vs)x;
  return (vu)((pass == 0 ? pairs << 8 : pairs) >> 8);
#else
  return x;
#endif
}

RETOUCH_INLINE vu row_levels(const char* p, [[maybe_unused]] int pass) {
  uint32_t word;
  memcpy(&word, p, 4);
  vu x = vu{} + word;
  return level_offset ? x ^ 0x80808080u : pass_of(x, pass);
}

RETOUCH_INLINE vi dot_levels(vi acc, vu row, vu columns) {
#if defined(__AVX512VNNI__)
  return (vi)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)row, (__m512i)columns);
#elif defined(__AVXVNNI__)
  return (vi)_mm256_dpbusd_avx_epi32((__m256i)acc, (__m256i)row, (__m256i)columns);
#elif defined(__AVX2__)
  return acc + (vi)_mm256_madd_epi16((__m256i)row, (__m256i)columns);
#elif defined(__x86_64__)
  return acc + (vi)_mm_madd_epi16((__m128i)row, (__m128i)columns);
#elif defined(__ARM_FEATURE_DOTPROD)
  return (vi)vdotq_s32((int32x4_t)acc, (int8x16_t)row, (int8x16_t)columns);
#elif defined(__aarch64__)
  int8x16_t a = (int8x16_t)row, b = (int8x16_t)columns;
  int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)));
  int32x4_t high = vpaddlq_s16(vmull_high_s8(a, b));
  return acc + (vi)vpaddq_s32(low, high);
#else
  for (int shift = 0; shift < 32; shift += 8)
    acc += ((vi)(row << (24 - shift)) >> 24) * ((vi)(columns << (24 - shift)) >> 24);
  return acc;
#endif
}

// Transposes a square of 32-bit lanes: at each step blocks of half the size change places.
RETOUCH_INLINE void transpose(vf (&x)[lanes]) {
#if defined(__clang__)
  for (int i = 0; i < lanes; ++i)
    for (int j = 0; j < i; ++j) {
      float saved = x[i][j];
      x[i][j] = x[j][i];
      x[j][i] = saved;
    }
#else
#pragma GCC unroll 8
  for (int step = lanes / 2; step > 0; step /= 2) {
    vi low, high;
    for (int j = 0; j < lanes; ++j) {
      low[j] = j & step ? lanes + j - step : j;
      high[j] = j & step ? lanes + j : j + step;
    }
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) {
      if (i & step) continue;
      vf a = x[i], b = x[i + step];
      x[i] = __builtin_shuffle(a, b, low);
      x[i + step] = __builtin_shuffle(a, b, high);
    }
  }
#endif
}

// Horizontal sum, always in the same order.
RETOUCH_INLINE float sum_lanes(vf x) {
  float v[lanes];
  memcpy(v, &x, sizeof(x));
  for (int width = lanes / 2; width; width /= 2)
    for (int i = 0; i < width; ++i) v[i] += v[i + width];
  return v[0];
}

} // namespace retouch::RETOUCH_NS
