#include "shuffle.h"

namespace retouch {

namespace {

template <class T>
T* line_of(const Matrix& m, int64_t line) {
  return reinterpret_cast<T*>(m.data) + line * m.ld;
}

template <class T>
void shuffle_as(const ShuffleArgs& s, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t m = 0; m < s.m; ++m) {
    T* out = line_of<T>(s.out, s.out_index ? s.out_index[m] : m);
    int64_t line = s.index.data[m];
    const T* a = line < 0 ? nullptr : line_of<T>(s.a, line) + s.phase[m] * s.outer_stride;
    for (int64_t c = 0; c < s.out.channels; ++c) out[c] = a ? a[c * s.channel_stride] : T(0);
  }
}

template <class T>
void unshuffle_as(const ShuffleArgs& s, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t m = 0; m < s.m; ++m)
    for (int64_t t = 0; t < s.index.taps; ++t) {
      T* out = line_of<T>(s.out, s.out_index ? s.out_index[m] : m) + t * s.outer_stride;
      int64_t line = s.index.data[m * s.index.taps + t];
      const T* a = line < 0 ? nullptr : line_of<T>(s.a, line);
      for (int64_t c = 0; c < s.a.channels; ++c) out[c * s.channel_stride] = a ? a[c] : T(0);
    }
}

int team(const ShuffleArgs& s, int threads) {
  return s.m * s.out.channels < 16384 ? 1 : threads;
}

} // namespace

void shuffle(const ShuffleArgs& s, int threads) {
  auto run = s.a.dtype == DType::bf16 ? shuffle_as<uint16_t> : shuffle_as<uint32_t>;
  run(s, team(s, threads));
}

void unshuffle(const ShuffleArgs& s, int threads) {
  auto run = s.a.dtype == DType::bf16 ? unshuffle_as<uint16_t> : unshuffle_as<uint32_t>;
  run(s, team(s, threads));
}

} // namespace retouch
