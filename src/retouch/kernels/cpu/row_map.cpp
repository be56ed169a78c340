#ifndef RETOUCH_BIND
#include "ops.h"
#include "parallel.h"
#include "program.h"
#include "runtime.h"

namespace retouch::RETOUCH_NS {

void row_map(const RowMapArgs& args, int threads) {
  const ProgramArgs& p = args.program;
  int64_t channels = p.width;
  // A slot of a tile holds about 1024 floats: a few slots stay in the first-level cache.
  int64_t width = p.code.whole_row || p.head < channels ? p.head : min_of(channels, 1024);
  int64_t height = max_of(1, 1024 / width);
  int64_t chunk = max_of(height, round_up(ceil_div(32768, channels), height));
  if (args.m * channels < 16384) threads = 1;
  parallel(threads, ceil_div(args.m, chunk), [&](int64_t task) {
    float* scratch = static_cast<float*>(thread_scratch(tile_scratch(p.code, height, width) * 4));
    int64_t end = min_of(args.m, (task + 1) * chunk);
    for (int64_t row = task * chunk; row < end; row += height)
      for (int64_t column = 0; column < channels; column += width)
        run_tile(p, {row, min_of(height, end - row), column, min_of(width, channels - column)},
                 nullptr, 0, scratch);
  });
}

} // namespace retouch::RETOUCH_NS

#else
#include "calls.h"

namespace retouch {

using namespace nb::literals;

namespace {

void call_row_map(const Rows& out, const Index* out_index, const Program* program,
                  const RowList& rows, const VectorList& vectors, const Index* sample,
                  int64_t heads) {
  if (heads < 1 || out.m.channels % heads)
    bad_value("row_map: " + str(out.m.channels) + " channels do not divide into " + str(heads) +
              " heads");
  ProgramCall call(out, out_index, program, rows, vectors, sample, false, heads);
  RowMapArgs args{count_rows(out, out_index), call.args};
  if (!out.m.channels) return;
  launch(kernels().row_map, args);
}

} // namespace

void bind_row_map(nb::module_& m) {
  bind(m, "row_map", call_row_map, "out"_a, "out_index"_a.none(), "program"_a.none(),
       "rows"_a = nb::none(), "vectors"_a = nb::none(), "sample"_a.none() = nb::none(),
       "heads"_a = 1);
}

} // namespace retouch

#endif
