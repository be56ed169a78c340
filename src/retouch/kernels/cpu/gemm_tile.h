// Register-blocked micro kernel of the indirect matrix product.
//
//   c[m, n] (+)= sum over taps t, channels k of A[index[m, t], k] * B[t, k, n]
//
// Every output is one chain of multiply-adds over t, then k, from zero: the same chain in a block
// of any height and width, so that a row's value does not depend on its neighbours. Of int8 a block
// has one tap: its sum of integers is exact, then multiplied by the scale that row of A ends in,
// which the level of zero follows, and by that of the column.
#pragma once
#include "simd.h"
#include "types.h"

namespace retouch::RETOUCH_NS {

struct BlockArgs {
  const char* a; // at the first channel of the block
  int64_t ld_bytes;
  const int32_t* index; // of the block's first row and tap; nullptr: rows row, row + 1, ..
  int64_t row, index_stride;
  const char* zeros;
  int64_t scale; // int8: bytes from a to the scale of the row
  int64_t taps, channels;
  const char* b;
  float* c; // [rows][vectors * lanes]
  bool add;
  const char* prefetch; // what the next block of B reads, and how far it reaches
};

using Block = void (*)(const BlockArgs&);

// Rows in as few blocks as there may be, of about as many rows: body(first, rows) of each.
template <class Body>
static void each_block(int64_t rows, int64_t vectors, const Body& body) {
  int64_t blocks = ceil_div(rows, block_rows(int(vectors)));
  for (int64_t i = 0, first = 0; i < blocks; ++i) {
    int64_t n = (rows - first + blocks - i - 1) / (blocks - i);
    body(first, n);
    first += n;
  }
}

// The kernel for rows of float32, bf16 or int8, `vectors` vectors of columns and `rows` rows (1 ..
// block_rows(vectors)), each step of which fetches `lines` lines of the next block of B ahead: 0,
// 1, 2 or 4.
Block block_kernel(DType dtype, int64_t vectors, int64_t rows, int lines);

} // namespace retouch::RETOUCH_NS
