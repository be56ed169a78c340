#include "index.h"

namespace retouch {

std::vector<int32_t> unique_rows(const int32_t* index, int64_t count, int64_t total,
                                 int32_t* positions) {
  int64_t words = (total + 63) / 64;
  std::vector<uint64_t> seen(size_t(words), 0);
  for (int64_t i = 0; i < count; ++i)
    if (index[i] >= 0) seen[size_t(index[i] >> 6)] |= uint64_t(1) << (index[i] & 63);

  // Place of every row that was seen; the others are never read, so the table is not cleared.
  static thread_local std::vector<int32_t> place;
  if (place.size() < size_t(total)) place.resize(size_t(total));
  std::vector<int32_t> rows;
  rows.reserve(size_t(count < total ? count : total));
  for (int64_t w = 0; w < words; ++w)
    for (uint64_t left = seen[size_t(w)]; left; left &= left - 1) {
      int32_t row = int32_t(w * 64 + __builtin_ctzll(left));
      place[size_t(row)] = int32_t(rows.size());
      rows.push_back(row);
    }

  for (int64_t i = 0; i < count; ++i) positions[i] = index[i] < 0 ? -1 : place[size_t(index[i])];
  return rows;
}

} // namespace retouch
