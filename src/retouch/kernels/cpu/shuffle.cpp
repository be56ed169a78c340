// Pixel shuffle and unshuffle on rows.
#ifndef RETOUCH_BIND
#include "common.h"
#include "parallel.h"

namespace retouch {

namespace {

template <class T>
T* line_of(const Matrix& m, int64_t line) {
  return reinterpret_cast<T*>(m.data) + line * m.ld;
}

template <class T>
void shuffle_as(const ShuffleArgs& s, int threads) {
  parallel_each(threads, s.m, [&](int64_t m) {
    T* out = line_of<T>(s.out, s.out_index ? s.out_index[m] : m);
    int64_t line = s.index.data[m];
    const T* a = line < 0 ? nullptr : line_of<T>(s.a, line) + s.phase[m] * s.outer_stride;
    for (int64_t c = 0; c < s.out.channels; ++c) out[c] = a ? a[c * s.channel_stride] : T(0);
  });
}

template <class T>
void unshuffle_as(const ShuffleArgs& s, int threads) {
  parallel_each(threads, s.m, [&](int64_t m) {
    for (int64_t t = 0; t < s.index.taps; ++t) {
      T* out = line_of<T>(s.out, s.out_index ? s.out_index[m] : m) + t * s.outer_stride;
      int64_t line = s.index.data[m * s.index.taps + t];
      const T* a = line < 0 ? nullptr : line_of<T>(s.a, line);
      for (int64_t c = 0; c < s.a.channels; ++c) out[c * s.channel_stride] = a ? a[c] : T(0);
    }
  });
}

int team(const ShuffleArgs& s, int threads) {
  return s.m * s.out.channels < 16384 ? 1 : threads;
}

} // namespace

// out[m, c] = a[index[m], phase[m] * outer_stride + c * channel_stride]
void shuffle(const ShuffleArgs& s, int threads) {
  auto run = s.a.dtype == DType::bf16 ? shuffle_as<uint16_t> : shuffle_as<uint32_t>;
  run(s, team(s, threads));
}

// out[m, t * outer_stride + c * channel_stride] = a[index[m, t], c]
void unshuffle(const ShuffleArgs& s, int threads) {
  auto run = s.a.dtype == DType::bf16 ? unshuffle_as<uint16_t> : unshuffle_as<uint32_t>;
  run(s, team(s, threads));
}

} // namespace retouch

#else
#include "calls.h"

namespace retouch {

using namespace nb::literals;

namespace {

void check_span(int64_t start, int64_t count, int64_t stride, int64_t limit, const char* what) {
  if (start < 0 || stride < 1 || start + (count - 1) * stride >= limit)
    bad_value(std::string(what) + ": channel " + str(start + (count - 1) * stride) +
              " is outside a row of " + str(limit));
}

ShuffleArgs shuffle_args(const Rows& out, const Index* out_index, const Rows& a, const Index& index,
                         int64_t outer, int64_t stride) {
  check_float(out, "out");
  if (out.m.dtype != a.m.dtype) bad_type("shuffle: the dtypes differ");
  int64_t m = count_rows(out, out_index);
  check_gather(a, &index, m, index.table.taps, "index");
  return {out.m, a.m,   check_target(out, out_index, "out_index"), nullptr, index.table, m,
          outer, stride};
}

void call_shuffle(const Rows& out, const Index* out_index, const Rows& a, const Index& index,
                  const Index& phase, int64_t phase_stride, int64_t channel_stride) {
  ShuffleArgs args = shuffle_args(out, out_index, a, index, phase_stride, channel_stride);
  check_same(index.table.taps, 1, "taps of the index");
  check_same(phase.table.count, args.m, "length of phase");
  if (phase.min < 0 || phase_stride < 0) bad_value("shuffle: phases must not be negative");
  if (!args.m || !out.m.channels) return;
  check_span(phase.max * phase_stride, out.m.channels, channel_stride, a.m.channels, "shuffle");
  args.phase = phase.table.data;
  launch(kernels().shuffle, args);
}

void call_unshuffle(const Rows& out, const Index* out_index, const Rows& a, const Index& index,
                    int64_t tap_stride, int64_t channel_stride) {
  ShuffleArgs args = shuffle_args(out, out_index, a, index, tap_stride, channel_stride);
  if (!args.m || !a.m.channels || !index.table.taps) return;
  if (tap_stride < 0) bad_value("unshuffle: tap_stride must not be negative");
  check_span((index.table.taps - 1) * tap_stride, a.m.channels, channel_stride, out.m.channels,
             "unshuffle");
  launch(kernels().unshuffle, args);
}

} // namespace

void bind_shuffle(nb::module_& m) {
  bind(m, "shuffle", call_shuffle, "out"_a, "out_index"_a.none(), "a"_a, "index"_a, "phase"_a,
       "phase_stride"_a, "channel_stride"_a);
}

void bind_unshuffle(nb::module_& m) {
  bind(m, "unshuffle", call_unshuffle, "out"_a, "out_index"_a.none(), "a"_a, "index"_a,
       "tap_stride"_a, "channel_stride"_a);
}

} // namespace retouch

#endif
