#ifndef RETOUCH_BIND
#include "ops.h"
#include "parallel.h"
#include "runtime.h"

namespace retouch::RETOUCH_NS {

namespace {

constexpr int64_t chunk_rows = 256; // fixed: the sums of chunks are added in order

// Channels that are summed side by side, in double precision.
constexpr int strip_vectors = RETOUCH_REGISTERS == 32 ? 4 : 2;
constexpr int strip = strip_vectors * lanes;

struct Halves {
  vd low, high;
};

RETOUCH_INLINE Halves to_double(vf x) {
  vf_half low, high;
  memcpy(&low, &x, sizeof(low));
  memcpy(&high, reinterpret_cast<const char*>(&x) + sizeof(low), sizeof(high));
  return {__builtin_convertvector(low, vd), __builtin_convertvector(high, vd)};
}

RETOUCH_INLINE void store_double(double* p, vd x) {
  memcpy(p, &x, sizeof(x));
}

// Sums and sums of squares of up to `strip` channels over some rows.
template <class T, bool Whole>
void sum_strip(const ChannelSumsArgs& c, int64_t first, int64_t last, int64_t channel,
               int64_t channels, double* sums, double* squares) {
  vd s[2 * strip_vectors] = {}, q[2 * strip_vectors] = {};
  for (int64_t m = first; m < last; ++m) {
    int64_t line = c.index ? c.index[m] : m;
    if (line < 0) continue;
    const T* x = reinterpret_cast<const T*>(c.x.data) + line * c.x.ld + channel;
#pragma GCC unroll 4
    for (int v = 0; v < strip_vectors; ++v) {
      int64_t n = channels - v * lanes;
      if (!Whole && n <= 0) break;
      vf values = Whole || n >= lanes ? load(x + v * lanes) : load_part(x + v * lanes, n);
      Halves h = to_double(values);
      s[2 * v] += h.low;
      s[2 * v + 1] += h.high;
      q[2 * v] += h.low * h.low;
      q[2 * v + 1] += h.high * h.high;
    }
  }
  double all[2][strip];
  for (int v = 0; v < 2 * strip_vectors; ++v) {
    store_double(all[0] + v * lanes / 2, s[v]);
    store_double(all[1] + v * lanes / 2, q[v]);
  }
  memcpy(sums, all[0], channels * sizeof(double));
  memcpy(squares, all[1], channels * sizeof(double));
}

template <class T>
void sum_chunk(const ChannelSumsArgs& c, int64_t first, int64_t last, double* out) {
  int64_t channels = c.x.channels;
  for (int64_t j = 0; j < channels; j += strip) {
    int64_t n = min_of(strip, channels - j);
    if (n == strip)
      sum_strip<T, true>(c, first, last, j, n, out + j, out + channels + j);
    else
      sum_strip<T, false>(c, first, last, j, n, out + j, out + channels + j);
  }
}

} // namespace

void channel_sums(const ChannelSumsArgs& args, int threads) {
  int64_t width = 2 * args.x.channels, chunks = 0;
  for (int64_t b = 0; b < args.samples; ++b)
    chunks += ceil_div(args.bounds[b + 1] - args.bounds[b], chunk_rows);
  double* partial = static_cast<double*>(call_scratch(chunks * width * sizeof(double)));
  if (args.bounds[args.samples] * args.x.channels < 16384) threads = 1;
  parallel(threads, chunks, [&](int64_t task) {
    int64_t b = 0, chunk = task;
    for (;; ++b) {
      int64_t here = ceil_div(args.bounds[b + 1] - args.bounds[b], chunk_rows);
      if (chunk < here) break;
      chunk -= here;
    }
    int64_t first = args.bounds[b] + chunk * chunk_rows;
    int64_t last = min_of(first + chunk_rows, args.bounds[b + 1]);
    auto sum = args.x.dtype == DType::f32 ? sum_chunk<float> : sum_chunk<bf16>;
    sum(args, first, last, partial + task * width);
  });
  for (int64_t b = 0; b < args.samples; ++b) {
    int64_t here = ceil_div(args.bounds[b + 1] - args.bounds[b], chunk_rows);
    double* out = reinterpret_cast<double*>(args.sums.data) + b * args.sums.ld;
    for (int64_t j = 0; here && j < width; ++j) {
      double sum = 0;
      for (int64_t i = 0; i < here; ++i) sum += partial[i * width + j];
      out[j] += args.sign * sum;
    }
    partial += here * width;
  }
}

} // namespace retouch::RETOUCH_NS

#else
#include "calls.h"

namespace retouch {

using namespace nb::literals;

namespace {

void call_channel_sums(const Rows& sums, const Rows& x, const Index* index, const Index& bounds,
                       double sign) {
  check_dtype(sums, {DType::f64}, "sums");
  check_float(x, "x");
  int64_t samples = check_bounds(bounds, "channel_sums");
  const int32_t* b = bounds.table.data;
  check_same(sums.m.rows, samples, "rows of sums");
  check_same(sums.m.channels, 2 * x.m.channels, "channels of sums");
  ChannelSumsArgs args{sums.m, x.m,     check_gather(x, index, b[samples], 1, "index"),
                       b,      samples, sign};
  if (!x.m.channels) return;
  launch(kernels().channel_sums, args);
}

} // namespace

void bind_channel_sums(nb::module_& m) {
  bind(m, "channel_sums", call_channel_sums, "sums"_a, "x"_a, "index"_a.none(), "bounds"_a,
       "sign"_a = 1.0);
}

} // namespace retouch

#endif
