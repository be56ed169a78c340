// Row copies between float32, bfloat16, float16 and int8 with a scale, rounding to nearest even.
#pragma once
#include "parallel.h"
#include "simd.h"
#include "types.h"

namespace retouch::RETOUCH_NS {

struct f16 {
  uint16_t bits;
};

RETOUCH_INLINE vf widen_f16(vh x) {
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_cvtph_ps(__mmask16(-1), (__m256i)x);
#elif defined(__F16C__)
  return (vf)_mm256_cvtph_ps((__m128i)x);
#elif defined(__aarch64__)
  return (vf)vcvt_f32_f16((float16x4_t)x);
#else
  vu u = widen_bits(x), shifted = (u & 0x7fff) << 13, exponent = shifted & 0x0f800000;
  vu normal = shifted + 0x38000000;
  vf subnormal = from_bits(shifted + 0x38800000) - 0x1p-14f;
  vu y = exponent == 0x0f800000 ? normal + 0x38000000 : normal; // infinity and NaN
  y = exponent == 0 ? bits(subnormal) : y;
  return from_bits(y | ((u & 0x8000) << 16));
#endif
}

RETOUCH_INLINE vh narrow_f16(vf x) {
#if defined(__AVX512F__)
  return (vh)_mm512_maskz_cvtps_ph(__mmask16(-1), (__m512)x, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__F16C__)
  return (vh)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__aarch64__)
  return (vh)vcvt_f16_f32((float32x4_t)x);
#else
  vu u = bits(x), size = u & 0x7fffffff;
  vu normal = (size + 0xfff + ((size >> 13) & 1) - 0x38000000) >> 13;
  // Adding 0.5 rounds to multiples of 2^-24 and leaves their number in the low bits.
  vu subnormal = bits(from_bits(size) + 0.5f) - 0x3f000000;
  vu y = size < 0x38800000 ? subnormal : normal;
  y = size >= 0x47800000 ? vu{} + 0x7c00 : y;                  // 2^16 and infinity
  y = size > 0x7f800000 ? 0x7e00 | ((size >> 13) & 0x3ff) : y; // NaN
  return __builtin_convertvector(y | ((u >> 16) & 0x8000), vh);
#endif
}

RETOUCH_INLINE vf get(const float* p) {
  return load(p);
}
RETOUCH_INLINE vf get(const bf16* p) {
  return load(p);
}
RETOUCH_INLINE vf get(const f16* p) {
  vh x;
  memcpy(&x, p, sizeof(x));
  return widen_f16(x);
}

RETOUCH_INLINE void put(float* p, vf x) {
  store(p, x);
}
// Not the store of simd.h: the instruction that it uses where there is one loses subnormals.
RETOUCH_INLINE void put(bf16* p, vf x) {
  vh h = __builtin_convertvector(round_to_bf16(x), vh);
  memcpy(p, &h, sizeof(h));
}
RETOUCH_INLINE void put(f16* p, vf x) {
  vh h = narrow_f16(x);
  memcpy(p, &h, sizeof(h));
}

template <class To, class From>
static void convert_line(char* dst, const char* src, int64_t channels) {
  To* to = reinterpret_cast<To*>(dst);
  const From* from = reinterpret_cast<const From*>(src);
  int64_t c = 0;
  for (; c + lanes <= channels; c += lanes) put(to + c, get(from + c));
  if (c == channels) return;
  From in[lanes] = {};
  To out[lanes];
  memcpy(in, from + c, size_t(channels - c) * sizeof(From));
  put(out, get(in));
  memcpy(to + c, out, size_t(channels - c) * sizeof(To));
}

typedef int8_t vb __attribute__((vector_size(lanes)));

RETOUCH_INLINE vf get(const int8_t* p) {
  vb x;
  memcpy(&x, p, sizeof(x));
  return __builtin_convertvector(x, vf);
}

RETOUCH_INLINE vb narrow_levels(vi x) {
#if defined(__AVX512F__)
  return (vb)_mm512_maskz_cvtepi32_epi8(__mmask16(-1), (__m512i)x);
#elif defined(__AVX2__)
  __m256i y = (__m256i)x;
  __m128i pairs = _mm_packs_epi32(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));
  int64_t bytes = _mm_cvtsi128_si64(_mm_packs_epi16(pairs, pairs));
  return (vb)bytes;
#else
  return __builtin_convertvector(x, vb);
#endif
}

// Calls f with whole vectors of a row and where they begin, then with what is left and its length.
template <class From, class F>
RETOUCH_INLINE void for_vectors(const From* from, int64_t channels, F f) {
  int64_t c = 0;
  for (; c + lanes <= channels; c += lanes) f(get(from + c), c, lanes);
  if (c == channels) return;
  From part[lanes] = {};
  memcpy(part, from + c, size_t(channels - c) * sizeof(From));
  f(get(part), c, channels - c);
}

// The largest magnitude in a row.
template <class From>
static float largest(const From* from, int64_t channels) {
  vi most = {};
  for_vectors(from, channels, [&](vf x, int64_t, int64_t) __attribute__((always_inline)) {
    vi size = (vi)(bits(x) & 0x7fffffff);
    most = size > most ? size : most;
  });
  int32_t top = 0;
  for (int i = 0; i < lanes; ++i) top = most[i] > top ? most[i] : top;
  float found;
  memcpy(&found, &top, sizeof(found));
  return found;
}

constexpr float smallest = 0x1p-100f; // rows below it are zeros
constexpr float level_steps = 254;    // one less than there are, for what rounding adds

// The nearest integer to a small number, ties to even.
RETOUCH_INLINE int32_t level_of(float x) {
  float sum = x + 0x1.8p23f;
  int32_t found;
  memcpy(&found, &sum, sizeof(found));
  return found - 0x4b400000;
}

// A float that is not negative, rounded up.
static bf16 rounded_up(float x) {
  uint32_t found;
  memcpy(&found, &x, sizeof(found));
  return {uint16_t(x != x ? 0x7fc0 : (found + 0xffff) >> 16)};
}

template <class From>
static void quantize_line(char* dst, const char* src, int64_t channels) {
  const From* from = reinterpret_cast<const From*>(src);
  float most = largest(from, channels);
  bf16 scale = rounded_up(most / 127);
  vf factor = set1(most >= smallest ? 1 / to_float(scale) : 0.0f), half = set1(0x1.8p23f);
  for_vectors(from, channels, [&](vf x, int64_t c, int64_t n) __attribute__((always_inline)) {
    // In the lowest bits of the sum is the level, rounded to the nearest, ties to even.
    vb levels = narrow_levels((vi)bits(x * factor + half) << 24 >> 24);
    if (n == lanes)
      memcpy(dst + c, &levels, sizeof(levels));
    else
      memcpy(dst + c, &levels, size_t(n));
  });
  memcpy(dst + channels, &scale, sizeof(scale));
}

// The same of products: levels of -128 to 127 from the smallest number of the row, or zero, to the
// largest, or zero; after the scale comes the level of zero, as one more of them.
template <class From>
static void spread_line(char* dst, const char* src, int64_t channels) {
  const From* from = reinterpret_cast<const From*>(src);
  vf low = {}, high = {}, none = {};
  for_vectors(from, channels, [&](vf x, int64_t, int64_t) __attribute__((always_inline)) {
    low = x < low ? x : low;
    high = x > high ? x : high;
    none += x - x; // 0, or NaN of what is no number
  });
  float least = 0, most = 0;
  for (int i = 0; i < lanes; ++i) {
    least = low[i] < least ? low[i] : least;
    most = high[i] > most ? high[i] : most;
    most += none[i];
  }
  float width = most - least, scale = width / level_steps;
  float factor = width >= smallest ? level_steps / width : 0.0f;
  vf factors = set1(factor), half = set1(0x1.8p23f);
  int32_t zero = width >= smallest ? -128 - level_of(least * factor) : 0;
  for_vectors(from, channels, [&](vf x, int64_t c, int64_t n) __attribute__((always_inline)) {
    vb levels = narrow_levels(((vi)bits(x * factors + half) + zero) << 24 >> 24);
    if (n == lanes)
      memcpy(dst + c, &levels, sizeof(levels));
    else
      memcpy(dst + c, &levels, size_t(n));
  });
  memcpy(dst + channels, &scale, sizeof(scale));
  dst[channels + product_bytes - 1] = char(zero);
}

template <class To>
static void restore_line(char* dst, const char* src, int64_t channels) {
  To* to = reinterpret_cast<To*>(dst);
  bf16 scale;
  memcpy(&scale, src + channels, sizeof(scale));
  for (int64_t c = 0; c < channels; c += lanes) {
    size_t count = size_t(min_of(lanes, channels - c));
    int8_t levels[lanes] = {};
    To part[lanes];
    memcpy(levels, src + c, count);
    put(part, get(levels) * set1(to_float(scale)));
    memcpy(to + c, part, count * sizeof(To));
  }
}

using Line = void (*)(char* dst, const char* src, int64_t channels);

static Line line_converter(DType to, DType from, bool spread) {
  if (to == DType::i8 && spread)
    return from == DType::f32    ? spread_line<float>
           : from == DType::bf16 ? spread_line<bf16>
                                 : spread_line<f16>;
  if (to == DType::i8)
    return from == DType::f32    ? quantize_line<float>
           : from == DType::bf16 ? quantize_line<bf16>
                                 : quantize_line<f16>;
  if (from == DType::i8)
    return to == DType::f32    ? restore_line<float>
           : to == DType::bf16 ? restore_line<bf16>
                               : restore_line<f16>;
  if (to == DType::f32)
    return from == DType::bf16 ? convert_line<float, bf16> : convert_line<float, f16>;
  if (to == DType::bf16)
    return from == DType::f32 ? convert_line<bf16, float> : convert_line<bf16, f16>;
  return from == DType::f32 ? convert_line<f16, float> : convert_line<f16, bf16>;
}

static int64_t item_size(const Matrix& m) {
  const int64_t sizes[] = {4, 2, 2, 8, 1};
  return sizes[int(m.dtype)];
}

// dst[dst_index[m]] = src[src_index[m]]; -1 in src_index gives zeros. Rows of i8 are parts with a
// scale each.
static void convert_rows(const CopyArgs& c, int threads) {
  int64_t channels = min_of(c.dst.channels, c.src.channels),
          chunk = ceil_div(65536, max_of(channels, 1)),
          scales = max_of(c.dst.channels, c.src.channels) - channels,
          parts = scales == product_bytes ? 1 : max_of(scales / scale_bytes, 1);
  int64_t dst_item = item_size(c.dst), src_item = item_size(c.src);
  int64_t dst_part = c.dst.channels / parts * dst_item,
          src_part = c.src.channels / parts * src_item;
  Line convert = line_converter(c.dst.dtype, c.src.dtype, scales == product_bytes);
  if (c.m * channels < 16384) threads = 1;
  parallel(threads, ceil_div(c.m, chunk), [&](int64_t task) {
    for (int64_t m = task * chunk; m < min_of(c.m, (task + 1) * chunk); ++m) {
      int64_t line = c.src_index ? c.src_index[m] : m;
      char* dst = c.dst.data + (c.dst_index ? c.dst_index[m] : m) * c.dst.ld * dst_item;
      if (line < 0)
        memset(dst, 0, size_t(c.dst.channels * dst_item));
      else
        for (int64_t i = 0; i < parts; ++i)
          convert(dst + i * dst_part,
                  c.source(m).data + line * c.source(m).ld * src_item + i * src_part,
                  channels / parts);
    }
  });
}

} // namespace retouch::RETOUCH_NS
