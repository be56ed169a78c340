#include "index.h"

namespace retouch {

std::vector<int32_t> unique_rows(const int32_t* index, int64_t count, int64_t total,
                                 int32_t* positions) {
  int64_t words = (total + 63) / 64;
  std::vector<uint64_t> seen(size_t(words), 0);
  for (int64_t i = 0; i < count; ++i)
    if (index[i] >= 0) seen[size_t(index[i] >> 6)] |= uint64_t(1) << (index[i] & 63);

  std::vector<int32_t> before(size_t(words), 0);
  int32_t found = 0;
  for (int64_t w = 0; w < words; ++w) {
    before[size_t(w)] = found;
    found += __builtin_popcountll(seen[size_t(w)]);
  }
  std::vector<int32_t> rows;
  rows.reserve(size_t(found));
  for (int64_t w = 0; w < words; ++w)
    for (uint64_t left = seen[size_t(w)]; left; left &= left - 1)
      rows.push_back(int32_t(w * 64 + __builtin_ctzll(left)));

  for (int64_t i = 0; i < count; ++i) {
    if (index[i] < 0) {
      positions[i] = -1;
      continue;
    }
    uint64_t below = (uint64_t(1) << (index[i] & 63)) - 1;
    size_t w = size_t(index[i] >> 6);
    positions[i] = before[w] + __builtin_popcountll(seen[w] & below);
  }
  return rows;
}

} // namespace retouch
