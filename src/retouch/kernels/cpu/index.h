// Index tables.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace retouch {

// Sorted distinct non-negative entries of index (each below total); positions[i] is the place of
// index[i] among them, -1 for a negative entry.
std::vector<int32_t> unique_rows(const int32_t* index, int64_t count, int64_t total,
                                 int32_t* positions);

} // namespace retouch
