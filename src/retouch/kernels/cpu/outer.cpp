#ifndef RETOUCH_BIND
#include "ops.h"
#include "parallel.h"

namespace retouch::RETOUCH_NS {

namespace {

constexpr int tall = 4, wide = 2 * lanes; // of the part of a matrix that is summed at a time

template <class T>
RETOUCH_INLINE void to_double(const T* x, int64_t n, double (&to)[wide]) {
  float values[wide];
  for (int j = 0; j < wide; j += lanes) {
    int64_t here = n - j;
    vf v = here >= lanes ? load(x + j) : here > 0 ? load_part(x + j, here) : vf{};
    memcpy(values + j, &v, sizeof(v));
  }
  for (int j = 0; j < wide; ++j) to[j] = double(values[j]);
}

// Products of up to `tall` channels of a and `wide` of b over the rows of a sample.
template <class T>
void sum_part(const OuterSumsArgs& c, int64_t sample, int64_t left, int64_t height, int64_t right,
              int64_t width, double* out, int64_t stride) {
  double sums[tall][wide] = {};
  for (int64_t m = c.bounds[sample]; m < c.bounds[sample + 1]; ++m) {
    int64_t p = c.a_index ? c.a_index[m] : m, q = c.b_index ? c.b_index[m] : m;
    if (p < 0 || q < 0) continue;
    double b[wide];
    const T* a = reinterpret_cast<const T*>(c.a.data) + p * c.a.ld + left;
    to_double(reinterpret_cast<const T*>(c.b.data) + q * c.b.ld + right, width, b);
    for (int i = 0; i < tall && i < height; ++i) {
      double factor = to_float(a[i]);
      for (int j = 0; j < wide; ++j) sums[i][j] += factor * b[j];
    }
  }
  for (int64_t i = 0; i < height; ++i)
    for (int64_t j = 0; j < width; ++j) out[i * stride + j] += c.sign * sums[i][j];
}

} // namespace

void outer_sums(const OuterSumsArgs& args, int threads) {
  int64_t da = args.a.channels / args.heads, db = args.b.channels / args.heads;
  int64_t down = ceil_div(da, tall), across = ceil_div(db, wide), per_head = down * across;
  auto sum = args.a.dtype == DType::f32 ? sum_part<float> : sum_part<bf16>;
  if (args.bounds[args.samples] * args.a.channels * db < 65536) threads = 1;
  parallel(threads, args.samples * args.heads * per_head, [&](int64_t task) {
    int64_t head = task / per_head % args.heads, sample = task / per_head / args.heads;
    int64_t i = task % per_head / across * tall, j = task % across * wide;
    double* out = reinterpret_cast<double*>(args.sums.data) + sample * args.sums.ld +
                  (head * da + i) * db + j;
    sum(args, sample, head * da + i, min_of(tall, da - i), head * db + j, min_of(wide, db - j), out,
        db);
  });
}

} // namespace retouch::RETOUCH_NS

#else
#include "calls.h"

namespace retouch {

using namespace nb::literals;

namespace {

void call_outer_sums(const Rows& sums, const Rows& a, const Index* a_index, const Rows& b,
                     const Index* b_index, int64_t heads, const Index& bounds, double sign) {
  check_dtype(sums, {DType::f64}, "sums");
  check_float(a, "a");
  if (b.m.dtype != a.m.dtype) bad_type("outer_sums: a and b must have one dtype");
  if (heads < 1 || a.m.channels % heads != 0 || b.m.channels % heads != 0)
    bad_value("outer_sums: " + str(a.m.channels) + " and " + str(b.m.channels) +
              " channels do not divide into " + str(heads) + " heads");
  int64_t samples = check_bounds(bounds, "outer_sums"), m = bounds.table.data[samples];
  check_same(sums.m.rows, samples, "rows of sums");
  check_same(sums.m.channels, 2 * (a.m.channels / heads) * b.m.channels, "channels of sums");
  const int32_t* p = check_gather(a, a_index, m, 1, "a_index");
  const int32_t* q = check_gather(b, b_index, m, 1, "b_index");
  OuterSumsArgs args{sums.m, a.m, b.m, p, q, bounds.table.data, heads, samples, sign};
  if (!a.m.channels || !b.m.channels) return;
  launch(kernels().outer_sums, args);
}

} // namespace

void bind_outer_sums(nb::module_& m) {
  bind(m, "outer_sums", call_outer_sums, "sums"_a, "a"_a, "a_index"_a.none(), "b"_a,
       "b_index"_a.none(), "heads"_a, "bounds"_a, "sign"_a = 1.0);
}

} // namespace retouch

#endif
