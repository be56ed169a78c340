#ifndef RETOUCH_BIND
#include "ops.h"
#include "parallel.h"

namespace retouch::RETOUCH_NS {

namespace {

template <class In, class Out>
struct Pool {
  const PoolArgs& p;

  const In* line(int64_t i) const { return reinterpret_cast<const In*>(p.a.data) + i * p.a.ld; }

  vf read(const In* x, int64_t n) const { return n == lanes ? load(x) : load_part(x, n); }

  vf weighted(const int32_t* index, const float* weights, int64_t j, int64_t n) const {
    vf sum{};
    for (int64_t t = 0; t < p.index.taps; ++t)
      if (index[t] >= 0) sum = fma(read(line(index[t]) + j, n), set1(weights[t]), sum);
    return sum;
  }

  vf maximum(const int32_t* index, int64_t j, int64_t n) const {
    vf best = set1(-__builtin_inff());
    for (int64_t t = 0; t < p.index.taps; ++t) {
      if (index[t] < 0) continue;
      vf x = read(line(index[t]) + j, n);
      best = (x > best) | (x != x) ? x : best;
    }
    return best;
  }

  void row(int64_t m) const {
    const int32_t* index = p.index.data + m * p.index.taps;
    const float* weights =
        p.weights ? reinterpret_cast<const float*>(p.weights->data) + m * p.weights->ld : nullptr;
    Out* out = reinterpret_cast<Out*>(p.out.data) + (p.out_index ? p.out_index[m] : m) * p.out.ld;
    for (int64_t j = 0; j < p.out.channels; j += lanes) {
      int64_t n = min_of(lanes, p.out.channels - j);
      vf x = weights ? weighted(index, weights, j, n) : maximum(index, j, n);
      if (n == lanes)
        store(out + j, x);
      else
        store_part(out + j, x, n);
    }
  }
};

template <class In, class Out>
void run(const PoolArgs& args, int threads) {
  int64_t chunk = max_of(1, 16384 / (args.out.channels * args.index.taps));
  parallel(threads, ceil_div(args.m, chunk), [&](int64_t task) {
    Pool<In, Out> pool{args};
    for (int64_t m = task * chunk; m < min_of(args.m, (task + 1) * chunk); ++m) pool.row(m);
  });
}

} // namespace

void pool(const PoolArgs& args, int threads) {
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

void call_pool(const Rows& out, const Index* out_index, const Rows& a, const Index& index,
               const Rows* weights) {
  check_float(out, "out");
  check_float(a, "a");
  int64_t m = count_rows(out, out_index);
  check_same(a.m.channels, out.m.channels, "channels of a");
  const int32_t* data = check_gather(a, &index, m, index.table.taps, "index");
  if (weights) {
    check_dtype(*weights, {DType::f32}, "weights");
    check_same(weights->m.rows, m, "rows of weights");
    check_same(weights->m.channels, index.table.taps, "taps of weights");
  }
  PoolArgs args{m,
                out.m,
                check_target(out, out_index, "out_index"),
                a.m,
                {data, m, index.table.taps},
                weights ? &weights->m : nullptr};
  if (!out.m.channels || !index.table.taps) return;
  launch(kernels().pool, args);
}

} // namespace

void bind_pool(nb::module_& m) {
  bind(m, "pool", call_pool, "out"_a, "out_index"_a.none(), "a"_a, "index"_a,
       "weights"_a.none() = nb::none());
}

} // namespace retouch

#endif
