#ifndef RETOUCH_BIND
#include "ops.h"
#include "parallel.h"
#include "program.h"
#include "runtime.h"

namespace retouch::RETOUCH_NS {

namespace {

template <class T>
RETOUCH_INLINE const T* line_of(const Matrix& m, int64_t line) {
  return reinterpret_cast<const T*>(m.data) + line * m.ld;
}

// acc[0 .. columns) = sum over taps of A[index[t], column + c] * weight[t, column + c]
template <class T>
void sum_taps(const DepthwiseArgs& d, const int32_t* index, int64_t row, int64_t column,
              int64_t columns, float* acc) {
  for (int64_t j = 0; j < columns; j += lanes) {
    int64_t n = min_of(lanes, columns - j);
    vf sum{};
    for (int64_t t = 0; t < d.index.taps; ++t) {
      int64_t line = index ? index[t] : row;
      if (line < 0) continue;
      const T* a = line_of<T>(d.a, line) + column + j;
      const float* w = line_of<float>(d.weight, t) + column + j;
      sum = n == lanes ? fma(load(a), load(w), sum) : fma(load_part(a, n), load_part(w, n), sum);
    }
    store(acc + j, sum);
  }
}

} // namespace

void depthwise(const DepthwiseArgs& args, int threads) {
  int64_t channels = args.program.out.channels;
  int64_t width = min_of(channels, 512), ld = round_up(width, lanes);
  int64_t height = max_of(1, 512 / ld);
  int64_t chunk = max_of(height, round_up(ceil_div(8192, channels), height));
  if (args.m * channels * args.index.taps < 16384) threads = 1;
  parallel(threads, ceil_div(args.m, chunk), [&](int64_t task) {
    int64_t extra = tile_scratch(args.program.code, height, width);
    float* acc = static_cast<float*>(thread_scratch((height * ld + extra) * 4));
    int64_t end = min_of(args.m, (task + 1) * chunk);
    for (int64_t row = task * chunk; row < end; row += height)
      for (int64_t column = 0; column < channels; column += width) {
        int64_t rows = min_of(height, end - row), columns = min_of(width, channels - column);
        for (int64_t r = 0; r < rows; ++r) {
          const int32_t* index =
              args.index.data ? args.index.data + (row + r) * args.index.taps : nullptr;
          auto sum = args.a.dtype == DType::f32 ? sum_taps<float> : sum_taps<bf16>;
          sum(args, index, row + r, column, columns, acc + r * ld);
        }
        run_tile(args.program, {row, rows, column, columns}, acc, ld, acc + height * ld);
      }
  });
}

} // namespace retouch::RETOUCH_NS

#else
#include "calls.h"

namespace retouch {

using namespace nb::literals;

namespace {

void call_depthwise(const Rows& out, const Index* out_index, const Rows& a, const Index* index,
                    const Rows& weight, const Program* program, const RowList& rows,
                    const VectorList& vectors, const Index* sample) {
  ProgramCall call(out, out_index, program, rows, vectors, sample, true);
  int64_t m = count_rows(out, out_index);
  check_float(a, "a");
  check_dtype(weight, {DType::f32}, "weight");
  check_same(a.m.channels, out.m.channels, "channels of a");
  check_same(weight.m.channels, out.m.channels, "channels of weight");
  const int32_t* data = check_gather(a, index, m, weight.m.rows, "index");
  DepthwiseArgs args{m, a.m, {data, m, weight.m.rows}, weight.m, call.args};
  if (!out.m.channels) return;
  launch(kernels().depthwise, args);
}

} // namespace

void bind_depthwise(nb::module_& m) {
  bind(m, "depthwise", call_depthwise, "out"_a, "out_index"_a.none(), "a"_a, "index"_a.none(),
       "weight"_a, "program"_a.none() = nb::none(), "rows"_a = nb::none(), "vectors"_a = nb::none(),
       "sample"_a.none() = nb::none());
}

} // namespace retouch

#endif
