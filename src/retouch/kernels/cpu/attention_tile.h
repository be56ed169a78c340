// Register-blocked micro kernel of attention's second product, transposed: a lane is a query.
#pragma once
#include "simd.h"

namespace retouch::RETOUCH_NS {

// O[j, lane] = O[j, lane] * decay[lane] + sum over steps of V[step, j] * P[step, lane]
struct ValueArgs {
  const char* v; // at column j of the first key (or pair of keys)
  int64_t ld_bytes, steps;
  const char* p;
  float* o;
  const float* decay; // nullptr: O starts here
};

using ValueBlock = void (*)(const ValueArgs&);

// The kernel for `vectors` vectors of queries and `rows` columns of V (1 .. block_rows(vectors)).
// bf16_words: V and P hold two keys side by side in every 32-bit word.
ValueBlock value_block(bool bf16_words, int64_t vectors, int64_t rows);

} // namespace retouch::RETOUCH_NS
