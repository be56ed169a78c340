// Interpreter of row programs over a tile: some rows, some columns.
#pragma once
#include "simd.h"
#include "types.h"

namespace retouch::RETOUCH_NS {

struct TileSpan {
  int64_t row, rows; // rows row .. row + rows - 1 of the call
  int64_t column, columns;
};

// Floats of scratch that a tile needs.
int64_t tile_scratch(const Code& code, int64_t rows, int64_t columns);

// Runs the program on one tile and stores the result. `acc` is the accumulator of the tile's first
// row and column with `acc_ld` floats between rows; the kernel may overwrite it.
void run_tile(const ProgramArgs& args, const TileSpan& span, const float* acc, int64_t acc_ld,
              float* scratch);

} // namespace retouch::RETOUCH_NS
