// Row copies.
#pragma once
#include "types.h"

namespace retouch {

// dst[dst_index[m]] = src[src_index[m]]; -1 in src_index copies zeros. One dtype: for two there is
// the convert_rows of an instruction set.
void copy_rows(const CopyArgs& args, int threads);

// Exchanges dst[dst_index[m]] and src[m].
void swap_rows(const CopyArgs& args, int threads);

} // namespace retouch
