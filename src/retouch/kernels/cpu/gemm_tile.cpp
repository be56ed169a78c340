#include "gemm_tile.h"

namespace retouch::RETOUCH_NS {

namespace {

RETOUCH_INLINE float float_at(const char* p) {
  float x;
  memcpy(&x, p, 4);
  return x;
}

// One channel of float32, or two of bf16: both are 32 bits of A and a 32-bit lane of B.
template <bool Bf16, int NV, int MR>
RETOUCH_INLINE void multiply(vf (&acc)[MR][NV], const char* const (&a)[MR], int64_t offset,
                             const char* b, bool half_word) {
  vf bv[NV];
#pragma GCC unroll 4
  for (int v = 0; v < NV; ++v) bv[v] = load(reinterpret_cast<const float*>(b) + v * lanes);
#pragma GCC unroll 12
  for (int m = 0; m < MR; ++m) {
    if constexpr (Bf16) {
      uint32_t word = 0;
      memcpy(&word, a[m] + offset, half_word ? 2 : 4);
      vu av = vu{} + word;
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) acc[m][v] = dot_pairs(acc[m][v], av, bits(bv[v]));
    } else {
      vf av = set1(float_at(a[m] + offset));
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) acc[m][v] = fma(av, bv[v], acc[m][v]);
    }
  }
}

template <bool Bf16, int NV, int MR, int PF>
__attribute__((noinline)) void gemm_block(const BlockArgs& g) {
  constexpr int step = NV * lanes * 4; // bytes of B for 32 bits of A
  vf acc[MR][NV] = {};
  const char* b = g.b;
  const char* ahead = g.prefetch;
  const int64_t words = Bf16 ? g.channels / 2 : g.channels;
  const bool odd = Bf16 && (g.channels & 1);
  for (int64_t t = 0; t < g.taps; ++t) {
    const char* a[MR];
    bool any = false;
#pragma GCC unroll 12
    for (int m = 0; m < MR; ++m) {
      int64_t line = g.index ? g.index[m * g.index_stride + t] : g.row + m;
      a[m] = line < 0 ? g.zeros : g.a + line * g.ld_bytes;
      any |= line >= 0;
    }
    if (!any) {
      b += (words + odd) * step;
      continue;
    }
    for (int64_t k = 0; k < words; ++k) {
      multiply<Bf16, NV, MR>(acc, a, k * 4, b, false);
      b += step;
      if constexpr (PF > 0) {
#pragma GCC unroll 4
        for (int p = 0; p < PF; ++p) __builtin_prefetch(ahead + p * 64, 0, 2);
        ahead += PF * 64;
      }
    }
    if (odd) {
      multiply<Bf16, NV, MR>(acc, a, words * 4, b, true);
      b += step;
    }
  }
  for (int m = 0; m < MR; ++m)
    for (int v = 0; v < NV; ++v) {
      float* c = g.c + (m * NV + v) * lanes;
      store(c, g.add ? load(c) + acc[m][v] : acc[m][v]);
    }
}

// One tap of int8, four channels at a time.
template <int NV, int MR, int PF>
__attribute__((noinline)) void levels_block(const BlockArgs& g) {
  constexpr int step = NV * lanes * 4;
  const char* a[MR];
  bool any = false;
#pragma GCC unroll 12
  for (int m = 0; m < MR; ++m) {
    int64_t line = g.index ? g.index[m * g.index_stride] : g.row + m;
    a[m] = line < 0 ? g.zeros : g.a + line * g.ld_bytes;
    any |= line >= 0;
  }
  vi acc[MR][NV] = {};
  if (any) {
    const char* b = g.b + step;
    const char* ahead = g.prefetch;
    vi sums[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v)
      sums[v] = (vi)bits(load(reinterpret_cast<const float*>(g.b) + v * lanes));
#pragma GCC unroll 12
    for (int m = 0; m < MR; ++m) {
      vi zero =
          vi{} + (int32_t(*reinterpret_cast<const int8_t*>(a[m] + g.scale + 4)) + level_offset);
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) acc[m][v] = -zero * sums[v];
    }
    const int64_t words = ceil_div(g.channels, 4);
    for (int64_t k = 0; k < words; ++k) {
      b += step;
#pragma GCC unroll 2
      for (int pass = 0; pass < level_passes; ++pass) {
        vu bv[NV];
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v)
          bv[v] = pass_of(bits(load(reinterpret_cast<const float*>(b) + v * lanes)), pass);
#pragma GCC unroll 12
        for (int m = 0; m < MR; ++m) {
          vu av = row_levels(a[m] + k * 4, pass);
#pragma GCC unroll 4
          for (int v = 0; v < NV; ++v) acc[m][v] = dot_levels(acc[m][v], av, bv[v]);
        }
      }
      if constexpr (PF > 0) {
#pragma GCC unroll 4
        for (int p = 0; p < PF; ++p) __builtin_prefetch(ahead + p * 64, 0, 2);
        ahead += PF * 64;
      }
    }
  }
  vf scales[NV];
#pragma GCC unroll 4
  for (int v = 0; v < NV; ++v)
    scales[v] = load(reinterpret_cast<const float*>(g.b + step) + v * lanes);
#pragma GCC unroll 12
  for (int m = 0; m < MR; ++m) {
    vf scale = set1(float_at(a[m] + g.scale));
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) {
      float* c = g.c + (m * NV + v) * lanes;
      vf x = __builtin_convertvector(acc[m][v], vf) * scale * scales[v];
      store(c, g.add ? load(c) + x : x);
    }
  }
}

enum class Words { f32, bf16, i8 };

template <Words W, int NV, int MR, int PF>
constexpr Block block_of() {
  if constexpr (W == Words::i8)
    return levels_block<NV, MR, PF>;
  else
    return gemm_block<W == Words::bf16, NV, MR, PF>;
}

constexpr int prefetch_kinds = 4; // 0, 1, 2 or 4 lines

template <Words W, int NV, int MR>
constexpr Block pick_prefetch(int kind) {
  if constexpr (NV > max_vectors || MR > block_rows(NV)) {
    return nullptr;
  } else if constexpr (NV < max_vectors - 1) {
    return block_of<W, NV, MR, 0>();
  } else {
    return kind == 0   ? block_of<W, NV, MR, 0>()
           : kind == 1 ? block_of<W, NV, MR, 1>()
           : kind == 2 ? block_of<W, NV, MR, 2>()
                       : block_of<W, NV, MR, 4>();
  }
}

template <Words W, int NV>
constexpr Block pick_rows(int rows, int kind) {
  switch (rows) {
  case 1:
    return pick_prefetch<W, NV, 1>(kind);
  case 2:
    return pick_prefetch<W, NV, 2>(kind);
  case 3:
    return pick_prefetch<W, NV, 3>(kind);
  case 4:
    return pick_prefetch<W, NV, 4>(kind);
  case 5:
    return pick_prefetch<W, NV, 5>(kind);
  case 6:
    return pick_prefetch<W, NV, 6>(kind);
  case 7:
    return pick_prefetch<W, NV, 7>(kind);
  case 8:
    return pick_prefetch<W, NV, 8>(kind);
  case 9:
    return pick_prefetch<W, NV, 9>(kind);
  case 10:
    return pick_prefetch<W, NV, 10>(kind);
  case 11:
    return pick_prefetch<W, NV, 11>(kind);
  default:
    return pick_prefetch<W, NV, 12>(kind);
  }
}

struct BlockTable {
  Block entry[3][4][12][prefetch_kinds];

  constexpr BlockTable() : entry() {
    fill<Words::f32>();
    fill<Words::bf16>();
    fill<Words::i8>();
  }

  template <Words W>
  constexpr void fill() {
    for (int rows = 1; rows <= 12; ++rows)
      for (int kind = 0; kind < prefetch_kinds; ++kind) {
        entry[int(W)][0][rows - 1][kind] = pick_rows<W, 1>(rows, kind);
        entry[int(W)][1][rows - 1][kind] = pick_rows<W, 2>(rows, kind);
        entry[int(W)][2][rows - 1][kind] = pick_rows<W, 3>(rows, kind);
        entry[int(W)][3][rows - 1][kind] = pick_rows<W, 4>(rows, kind);
      }
  }
};

constexpr BlockTable block_table;

} // namespace

Block block_kernel(DType dtype, int64_t vectors, int64_t rows, int lines) {
  Words words = dtype == DType::i8 ? Words::i8 : dtype == DType::bf16 ? Words::bf16 : Words::f32;
  return block_table.entry[int(words)][vectors - 1][rows - 1][lines == 4 ? 3 : lines];
}

} // namespace retouch::RETOUCH_NS
