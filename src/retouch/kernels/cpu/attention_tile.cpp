#include "attention_tile.h"

namespace retouch::RETOUCH_NS {

namespace {

template <bool Bf16, int NV, int MR>
__attribute__((noinline)) void multiply_block(const ValueArgs& g) {
  vf acc[MR][NV] = {};
  const char *v = g.v, *p = g.p;
  for (int64_t k = 0; k < g.steps; ++k) {
    vf pv[NV];
#pragma GCC unroll 4
    for (int i = 0; i < NV; ++i) pv[i] = load(reinterpret_cast<const float*>(p) + i * lanes);
#pragma GCC unroll 12
    for (int m = 0; m < MR; ++m) {
      uint32_t word;
      memcpy(&word, v + m * 4, 4);
      vf a = from_bits(vu{} + word);
#pragma GCC unroll 4
      for (int i = 0; i < NV; ++i) {
        if constexpr (Bf16)
          acc[m][i] = dot_pairs(acc[m][i], bits(a), bits(pv[i]));
        else
          acc[m][i] = fma(a, pv[i], acc[m][i]);
      }
    }
    v += g.ld_bytes;
    p += NV * lanes * 4;
  }
  for (int m = 0; m < MR; ++m)
    for (int i = 0; i < NV; ++i) {
      float* o = g.o + (m * NV + i) * lanes;
      store(o, g.decay ? fma(load(o), load(g.decay + i * lanes), acc[m][i]) : acc[m][i]);
    }
}

template <bool Bf16, int NV, int MR>
constexpr ValueBlock pick_value(int rows) {
  if constexpr (NV > max_vectors || MR < 1 || MR > block_rows(NV))
    return nullptr;
  else
    return rows == MR ? multiply_block<Bf16, NV, MR> : pick_value<Bf16, NV, MR - 1>(rows);
}

struct ValueTable {
  ValueBlock entry[2][4][12];

  constexpr ValueTable() : entry() {
    for (int rows = 1; rows <= 12; ++rows) {
      fill<1>(rows);
      fill<2>(rows);
      fill<3>(rows);
      fill<4>(rows);
    }
  }

  template <int NV>
  constexpr void fill(int rows) {
    entry[0][NV - 1][rows - 1] = pick_value<false, NV, block_rows(NV)>(rows);
    entry[1][NV - 1][rows - 1] = pick_value<true, NV, block_rows(NV)>(rows);
  }
};

constexpr ValueTable value_table;

} // namespace

ValueBlock value_block(bool bf16_words, int64_t vectors, int64_t rows) {
  return value_table.entry[bf16_words][vectors - 1][rows - 1];
}

} // namespace retouch::RETOUCH_NS
