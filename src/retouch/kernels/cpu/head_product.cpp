#ifndef RETOUCH_BIND
#include "ops.h"
#include "parallel.h"

namespace retouch::RETOUCH_NS {

namespace {

constexpr int strip_vectors = 4;

template <class In, class Out>
struct Product {
  const HeadProductArgs& p;
  int64_t depth, width; // of a head

  // Columns j .. j + n - 1 of a head, n up to strip_vectors vectors.
  void strip(const In* a, const float* w, Out* out, int64_t n) const {
    vf sum[strip_vectors] = {};
    for (int64_t d = 0; d < depth; ++d) {
      vf factor = set1(to_float(a[d]));
      const float* line = w + d * p.w.ld;
      for (int v = 0; v < strip_vectors && v * lanes < n; ++v) {
        int64_t here = n - v * lanes;
        vf x = here >= lanes ? load(line + v * lanes) : load_part(line + v * lanes, here);
        sum[v] = fma(factor, x, sum[v]);
      }
    }
    for (int v = 0; v < strip_vectors && v * lanes < n; ++v) {
      int64_t here = n - v * lanes;
      if (here >= lanes)
        store(out + v * lanes, sum[v]);
      else
        store_part(out + v * lanes, sum[v], here);
    }
  }

  void row(int64_t m, int64_t sample) const {
    int64_t line = p.index ? p.index[m] : m;
    Out* out = reinterpret_cast<Out*>(p.out.data) + (p.out_index ? p.out_index[m] : m) * p.out.ld;
    if (line < 0) {
      memset(out, 0, size_t(p.out.channels) * sizeof(Out));
      return;
    }
    const In* a = reinterpret_cast<const In*>(p.a.data) + line * p.a.ld;
    const float* w = reinterpret_cast<const float*>(p.w.data);
    if (p.w.rows > depth) w += sample * depth * p.w.ld; // else one matrix for all samples
    for (int64_t h = 0; h < p.heads; ++h)
      for (int64_t j = 0; j < width; j += strip_vectors * lanes)
        strip(a + h * depth, w + h * width + j, out + h * width + j,
              min_of(strip_vectors * lanes, width - j));
  }
};

template <class In, class Out>
void run(const HeadProductArgs& args, int threads) {
  int64_t depth = args.a.channels / args.heads;
  Product<In, Out> product{args, depth, args.out.channels / args.heads};
  int64_t m = args.bounds[args.samples];
  int64_t chunk = max_of(1, 65536 / (args.out.channels * depth));
  parallel(threads, ceil_div(m, chunk), [&](int64_t task) {
    int64_t sample = 0;
    for (int64_t i = task * chunk; i < min_of(m, (task + 1) * chunk); ++i) {
      while (i >= args.bounds[sample + 1]) ++sample;
      product.row(i, sample);
    }
  });
}

} // namespace

void head_product(const HeadProductArgs& args, int threads) {
  bool in = args.a.dtype == DType::bf16, out = args.out.dtype == DType::bf16;
  auto kernel = in ? (out ? run<bf16, bf16> : run<bf16, float>)
                   : (out ? run<float, bf16> : run<float, float>);
  kernel(args, threads);
}

} // namespace retouch::RETOUCH_NS

#else
#include "calls.h"

namespace retouch {

using namespace nb::literals;

namespace {

void call_head_product(const Rows& out, const Index* out_index, const Rows& a, const Index* index,
                       const Rows& w, int64_t heads, const Index& bounds) {
  check_float(out, "out");
  check_float(a, "a");
  check_dtype(w, {DType::f32}, "w");
  if (heads < 1 || a.m.channels % heads != 0 || w.m.channels % heads != 0)
    bad_value("head_product: " + str(a.m.channels) + " and " + str(w.m.channels) +
              " channels do not divide into " + str(heads) + " heads");
  int64_t m = count_rows(out, out_index), samples = check_bounds(bounds, "head_product");
  check_same(bounds.table.data[samples], m, "rows in bounds");
  check_same(out.m.channels, w.m.channels, "channels of out");
  int64_t depth = a.m.channels / heads;
  if (w.m.rows != depth) check_same(w.m.rows, samples * depth, "rows of w");
  HeadProductArgs args{out.m,
                       a.m,
                       w.m,
                       check_target(out, out_index, "out_index"),
                       check_gather(a, index, m, 1, "index"),
                       bounds.table.data,
                       heads,
                       samples};
  if (!m || !a.m.channels || !out.m.channels) return;
  launch(kernels().head_product, args);
}

} // namespace

void bind_head_product(nb::module_& m) {
  bind(m, "head_product", call_head_product, "out"_a, "out_index"_a.none(), "a"_a, "index"_a.none(),
       "w"_a, "heads"_a, "bounds"_a);
}

} // namespace retouch

#endif
