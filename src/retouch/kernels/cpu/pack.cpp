#include "pack.h"

#include <algorithm>
#include <cstring>

namespace retouch {

namespace {

struct Columns {
  int64_t first, count, width; // real columns of the panel, and its width with padding
};

template <class T>
void pack_panel(const PackedWeights& s, const T* weight, const Columns& c, T* out) {
  constexpr int64_t pair = sizeof(T) == 2 ? 2 : 1;
  int64_t row = s.taps * s.channels;
  int64_t steps = (s.channels + pair - 1) / pair;
  for (int64_t t = 0; t < s.taps; ++t)
    for (int64_t k = 0; k < s.channels; ++k) {
      T* to = out + ((t * steps + k / pair) * c.width) * pair + k % pair;
      const T* from = weight + c.first * row + t * s.channels + k;
      for (int64_t n = 0; n < c.count; ++n) to[n * pair] = from[n * row];
    }
}

template <class T>
void pack_all(const PackedWeights& s, const T* weight, T* data, int threads) {
  constexpr int64_t pair = sizeof(T) == 2 ? 2 : 1;
  int64_t outputs = s.outputs / s.groups;
  int64_t vectors = (outputs + s.lanes - 1) / s.lanes;
  int64_t panels = (vectors + s.max_vectors - 1) / s.max_vectors;
  int64_t depth = s.taps * ((s.channels + pair - 1) / pair) * pair;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t i = 0; i < panels * s.groups; ++i) {
    int64_t group = i / panels, p = i % panels;
    int64_t first = p * vectors / panels, last = (p + 1) * vectors / panels;
    Columns c{group * outputs + first * s.lanes,
              std::min((last - first) * s.lanes, outputs - first * s.lanes),
              (last - first) * s.lanes};
    pack_panel(s, weight, c, data + (group * vectors + first) * s.lanes * depth);
  }
}

} // namespace

int64_t packed_bytes(const PackedWeights& s) {
  int64_t words = s.dtype == DType::bf16 ? (s.channels + 1) / 2 : s.channels;
  int64_t vectors = (s.outputs / s.groups + s.lanes - 1) / s.lanes;
  return s.groups * vectors * s.lanes * s.taps * words * 4;
}

void pack_weights(const PackedWeights& s, const void* weight, char* data, int threads) {
  if (s.dtype == DType::bf16)
    pack_all(s, static_cast<const uint16_t*>(weight), reinterpret_cast<uint16_t*>(data), threads);
  else
    pack_all(s, static_cast<const float*>(weight), reinterpret_cast<float*>(data), threads);
}

} // namespace retouch
