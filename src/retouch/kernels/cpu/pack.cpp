#include "pack.h"

#include "parallel.h"

#include <algorithm>
#include <cstring>

namespace retouch {

namespace {

struct Columns {
  int64_t first, count, width; // real columns of the panel, and its width with padding
};

template <class T>
struct Packer {
  const PackedWeights& s;
  const WeightStrides& from;
  const T* weight;
  const float* scales; // of levels

  static constexpr int64_t per_word = 4 / int64_t(sizeof(T));
  static constexpr bool levels = sizeof(T) == 1;

  void column_set(const Columns& c, int64_t t, int64_t k, T* out) const {
    T* tap = out + t * tap_words(s) * c.width * per_word;
    T* to = tap + ((2 * levels + k / per_word) * c.width) * per_word + k % per_word;
    const T* x = weight + c.first * from.output + t * from.tap + k * from.channel;
    for (int64_t n = 0; n < c.count; ++n) to[n * per_word] = x[n * from.output];
    if constexpr (levels) {
      int32_t* sums = reinterpret_cast<int32_t*>(tap);
      for (int64_t n = 0; n < c.count; ++n) sums[n] += x[n * from.output];
    }
  }

  void column_scales(const Columns& c, T* out) const {
    for (int64_t t = 0; t < s.taps; ++t) {
      float* to = reinterpret_cast<float*>(out + t * tap_words(s) * c.width * per_word) + c.width;
      for (int64_t n = 0; n < c.count; ++n) to[n] = scales[(c.first + n) * s.taps + t];
    }
  }

  // In the order of the weight's memory, so that every line of it is read once.
  void panel(const Columns& c, T* out) const {
    if (from.tap < from.channel) {
      for (int64_t k = 0; k < s.channels; ++k)
        for (int64_t t = 0; t < s.taps; ++t) column_set(c, t, k, out);
    } else {
      for (int64_t t = 0; t < s.taps; ++t)
        for (int64_t k = 0; k < s.channels; ++k) column_set(c, t, k, out);
    }
  }
};

template <class T>
void pack_all(const Packer<T>& packer, T* data, int threads) {
  const PackedWeights& s = packer.s;
  int64_t outputs = s.outputs / s.groups;
  int64_t vectors = (outputs + s.lanes - 1) / s.lanes;
  int64_t panels = (vectors + s.max_vectors - 1) / s.max_vectors;
  int64_t depth = s.taps * tap_words(s) * Packer<T>::per_word;
  parallel(threads, panels * s.groups, [&](int64_t i) {
    int64_t group = i / panels, p = i % panels;
    int64_t first = p * vectors / panels, last = (p + 1) * vectors / panels;
    T* to = data + (group * vectors + first) * s.lanes * depth;
    memset(to, 0, size_t((last - first) * s.lanes * depth) * sizeof(T)); // what pads it
    Columns c{group * outputs + first * s.lanes,
              std::min((last - first) * s.lanes, outputs - first * s.lanes),
              (last - first) * s.lanes};
    packer.panel(c, to);
    if constexpr (Packer<T>::levels) packer.column_scales(c, to);
  });
}

} // namespace

int64_t tap_words(const PackedWeights& s) {
  if (s.dtype == DType::i8) return 2 + (s.channels + 3) / 4;
  return s.dtype == DType::bf16 ? (s.channels + 1) / 2 : s.channels;
}

int64_t packed_columns(const PackedWeights& s) {
  return s.groups * ((s.outputs / s.groups + s.lanes - 1) / s.lanes) * s.lanes;
}

int64_t packed_bytes(const PackedWeights& s) {
  return packed_columns(s) * s.taps * tap_words(s) * 4;
}

void pack_weights(const PackedWeights& s, const void* weight, const WeightStrides& strides,
                  const float* scales, char* data, int threads) {
  if (s.dtype == DType::i8)
    pack_all<int8_t>({s, strides, static_cast<const int8_t*>(weight), scales},
                     reinterpret_cast<int8_t*>(data), threads);
  else if (s.dtype == DType::bf16)
    pack_all<uint16_t>({s, strides, static_cast<const uint16_t*>(weight), nullptr},
                       reinterpret_cast<uint16_t*>(data), threads);
  else
    pack_all<float>({s, strides, static_cast<const float*>(weight), nullptr},
                    reinterpret_cast<float*>(data), threads);
}

} // namespace retouch
