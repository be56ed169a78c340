#include "copy.h"

#include <algorithm>
#include <cstring>

namespace retouch {

namespace {

int64_t item_size(DType t) {
  return t == DType::f64 ? 8 : t == DType::f32 ? 4 : 2;
}

struct Lines {
  char* data;
  int64_t stride, bytes;

  explicit Lines(const Matrix& m)
      : data(m.data), stride(m.ld * item_size(m.dtype)), bytes(m.channels * item_size(m.dtype)) {}
  char* at(int64_t i) const { return data + i * stride; }
};

int team(int64_t bytes, int threads) {
  return bytes < (64 << 10) ? 1 : threads;
}

void swap_line(char* a, char* b, int64_t bytes) {
  char block[256];
  for (int64_t i = 0; i < bytes; i += sizeof(block)) {
    size_t n = size_t(std::min<int64_t>(sizeof(block), bytes - i));
    memcpy(block, a + i, n);
    memcpy(a + i, b + i, n);
    memcpy(b + i, block, n);
  }
}

} // namespace

void copy_rows(const CopyArgs& c, int threads) {
  Lines dst(c.dst), src(c.src);
#pragma omp parallel for schedule(static) num_threads(team(c.m* dst.bytes, threads))
  for (int64_t m = 0; m < c.m; ++m) {
    char* to = dst.at(c.dst_index ? c.dst_index[m] : m);
    int64_t line = c.src_index ? c.src_index[m] : m;
    if (line < 0)
      memset(to, 0, size_t(dst.bytes));
    else
      memcpy(to, src.at(line), size_t(dst.bytes));
  }
}

void swap_rows(const CopyArgs& c, int threads) {
  Lines dst(c.dst), src(c.src);
#pragma omp parallel for schedule(static) num_threads(team(c.m* dst.bytes, threads))
  for (int64_t m = 0; m < c.m; ++m)
    swap_line(dst.at(c.dst_index ? c.dst_index[m] : m), src.at(m), dst.bytes);
}

} // namespace retouch
