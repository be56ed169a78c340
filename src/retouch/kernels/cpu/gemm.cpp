#ifndef RETOUCH_BIND
#include "gemm_tile.h"
#include "ops.h"
#include "panels.h"
#include "parallel.h"
#include "program.h"
#include "runtime.h"

namespace retouch::RETOUCH_NS {

namespace {

class Gemm {
 public:
  explicit Gemm(const GemmArgs& args)
      : g(args), w(args.weights), panel(w), panels(panel.count), stretch(w),
        stretches(stretch.count), per_word(stretch.per_word) {
    size_t bytes = size_t(w.dtype == DType::i8 ? g.a.ld : w.channels * 4);
    zeros = static_cast<const char*>(zero_row(bytes));
  }

  void run(int threads) {
    if (g.m <= 0) return;
    int64_t chunks = ceil_div(g.m, 384);
    double direct = direct_cost(chunks, threads);
    for (int64_t more = chunks + 1; more <= chunks + 2 * threads && g.m / more >= 24; ++more) {
      double cost = direct_cost(more, threads);
      if (cost < 0.98 * direct) direct = cost, chunks = more;
    }
    if (threads > 1 && split_cost(threads) < 0.95 * direct)
      run_split(threads);
    else
      run_direct(threads, chunks);
  }

 private:
  // Rows that the busiest thread works through, with the reading of a panel's weights counted as
  // some rows: what matters for balance, no more.
  double direct_cost(int64_t chunks, int threads) const {
    double rows = double(round_up(ceil_div(g.m, chunks), 2)) + 6;
    return rows * double(ceil_div(panels * chunks, threads));
  }

  double split_cost(int threads) const {
    if (g.m * panels * stretches * max_vectors * lanes * 4 > (int64_t(8) << 20)) return 1e30;
    double share = double(ceil_div(panels * stretches, threads)) / double(stretches);
    return (double(g.m) + 6) * share + 2;
  }

  // Multiplies rows first .. first + rows - 1 by one stretch of a panel into c [rows][columns].
  // `after` is called for each finished row block.
  template <class After>
  void multiply(const Panel& p, const Stretch& s, int64_t first, int64_t rows, float* c, bool add,
                const After& after) const {
    const int64_t step = p.vectors * lanes * 4;
    BlockArgs block;
    int64_t channel = p.group * w.channels + s.channel;
    block.ld_bytes = g.a.ld * 4 / per_word;
    block.a = g.a.data + channel * 4 / per_word;
    block.scale = w.channels * w.groups - channel;
    block.index_stride = w.taps;
    block.zeros = zeros;
    block.taps = s.taps;
    block.channels = s.channels;
    block.b = w.data + p.offset + s.skipped * step;
    block.add = add;
    // The next stretch follows in memory; its lines are fetched while this one is multiplied.
    block.prefetch = block.b + s.words * step;
    const char* end = block.prefetch + s.words * step;
    int64_t blocks = ceil_div(rows, block_rows(int(p.vectors)));
    int lines = rows > 64 ? 0 : blocks >= 3 ? 1 : blocks == 2 ? 2 : 4;
    each_block(rows, p.vectors, [&](int64_t r, int64_t n) {
      int64_t row = first + r;
      block.row = row;
      block.index = g.index ? g.index + row * w.taps + s.tap : nullptr;
      block.c = c + r * p.vectors * lanes;
      if (block.prefetch >= end) lines = 0;
      block_kernel(w.dtype, p.vectors, n, lines)(block);
      block.prefetch += lines * s.words * 64;
      after(row, n, block.c);
    });
  }

  void finish(const Panel& p, int64_t row, int64_t rows, float* c, float* scratch) const {
    run_tile(g.program, {row, rows, p.column, p.columns}, c, p.vectors * lanes, scratch);
  }

  int64_t program_scratch() const { return tile_scratch(g.program.code, 12, max_vectors * lanes); }

  void run_direct(int threads, int64_t chunks) const {
    int64_t chunk_rows = ceil_div(g.m, chunks);
    parallel(threads, panels * chunks, [&](int64_t task) {
      Panel p = panel[task % panels];
      int64_t first = task / panels * chunk_rows;
      int64_t rows = min_of(chunk_rows, g.m - first);
      if (rows <= 0) return;
      int64_t sums = chunk_rows * max_vectors * lanes;
      float* c = static_cast<float*>(thread_scratch((sums + program_scratch()) * 4));
      float* scratch = c + sums;
      for (int64_t i = 0; i + 1 < stretches; ++i)
        multiply(p, stretch[i], first, rows, c, i > 0, [](int64_t, int64_t, float*) {});
      multiply(p, stretch[stretches - 1], first, rows, c, stretches > 1,
               [&](int64_t row, int64_t n, float* tile) { finish(p, row, n, tile, scratch); });
    });
  }

  // Few rows: the stretches of a panel are shared out as well, each into its own sums, which are
  // then added in the same order as above.
  void run_split(int threads) const {
    int64_t plane = g.m * max_vectors * lanes;
    float* sums = static_cast<float*>(call_scratch(panels * stretches * plane * 4));
    int64_t pieces = panels * stretches;
    int64_t run = max_of(1, pieces / (threads * 3));
    int64_t runs = ceil_div(pieces, run);
    parallel(threads, runs, [&](int64_t task) {
      for (int64_t i = task * run; i < min_of((task + 1) * run, pieces); ++i)
        multiply(panel[i / stretches], stretch[i % stretches], 0, g.m, sums + i * plane, false,
                 [](int64_t, int64_t, float*) {});
    });
    int64_t blocks = ceil_div(g.m, 12);
    parallel(panels * plane * stretches < 16384 ? 1 : threads, panels * blocks, [&](int64_t task) {
      int64_t i = task / blocks, row = task % blocks * 12;
      Panel p = panel[i];
      int64_t rows = min_of(12, g.m - row), width = p.vectors * lanes;
      float* first = sums + i * stretches * plane + row * width;
      for (int64_t s = 1; s < stretches; ++s)
        for (int64_t j = 0; j < rows * width; j += lanes)
          store(first + j, load(first + j) + load(first + s * plane + j));
      finish(p, row, rows, first, static_cast<float*>(thread_scratch(program_scratch() * 4)));
    });
  }

  const GemmArgs& g;
  const PackedWeights& w;
  Panels panel;
  int64_t panels;
  Stretches stretch;
  int64_t stretches, per_word;
  const char* zeros;
};

} // namespace

void gemm(const GemmArgs& args, int threads) {
  Gemm(args).run(threads);
}

void int8_gemm(const GemmArgs& args, int threads) {
  Gemm(args).run(threads);
}

} // namespace retouch::RETOUCH_NS

#else
#include "calls.h"

namespace retouch {

using namespace nb::literals;

namespace {

template <bool Levels>
void call_gemm(const Rows& out, const Index* out_index, const Rows& a, const Index* index,
               const Packed& packed, const Program* program, const RowList& rows,
               const VectorList& vectors, const Index* sample) {
  const PackedWeights& w = packed.weights;
  ProgramCall call(out, out_index, program, rows, vectors, sample, true);
  int64_t m = count_rows(out, out_index);
  check_packed(w, out.m.channels);
  if ((w.dtype == DType::i8) != Levels)
    bad_type(std::string(Levels ? "int8_gemm" : "gemm") + " does not take weights of " +
             dtype_name(w.dtype));
  check_same(a.m.channels, w.channels * w.groups + 5 * Levels, "channels of a");
  if (a.m.dtype != w.dtype)
    bad_type("a is " + dtype_name(a.m.dtype) + ", the packed weights are " + dtype_name(w.dtype));
  GemmArgs args{m, a.m, check_gather(a, index, m, w.taps, "index"), w, call.args};
  launch(Levels ? kernels().int8_gemm : kernels().gemm, args);
}

} // namespace

void bind_gemm(nb::module_& m) {
  bind(m, "gemm", call_gemm<false>, "out"_a, "out_index"_a.none(), "a"_a, "index"_a.none(),
       "packed"_a, "program"_a.none() = nb::none(), "rows"_a = nb::none(), "vectors"_a = nb::none(),
       "sample"_a.none() = nb::none());
}

void bind_int8_gemm(nb::module_& m) {
  bind(m, "int8_gemm", call_gemm<true>, "out"_a, "out_index"_a.none(), "a"_a, "index"_a.none(),
       "packed"_a, "program"_a.none() = nb::none(), "rows"_a = nb::none(), "vectors"_a = nb::none(),
       "sample"_a.none() = nb::none());
}

} // namespace retouch

#endif
