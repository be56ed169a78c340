#ifndef RETOUCH_BIND
#include "common.h"

namespace retouch {

// out float32 [samples, channels]: the first half of sums (and of shift, if there is one), float64
// [samples, 2 * channels], over the count.
void fold_mean(const FoldMeanArgs& f, int) {
  for (int64_t b = 0; b < f.out.rows; ++b) {
    float* mean = reinterpret_cast<float*>(f.out.data) + b * f.out.ld;
    const double* sums = reinterpret_cast<const double*>(f.sums.data) + b * f.sums.ld;
    const double* shift =
        f.shift.data ? reinterpret_cast<const double*>(f.shift.data) + b * f.shift.ld : nullptr;
    for (int64_t c = 0; c < f.out.channels; ++c)
      mean[c] = float((sums[c] + (shift ? shift[c] : 0.0)) / f.count);
  }
}

} // namespace retouch

#else
#include "calls.h"

namespace retouch {

using namespace nb::literals;

namespace {

void call_fold_mean(const Rows& out, const Rows& sums, const Rows* shift, double count) {
  check_dtype(out, {DType::f32}, "out");
  for (const Rows* r : {&sums, shift}) {
    if (!r) continue;
    check_dtype(*r, {DType::f64}, "sums");
    check_same(r->m.channels, 2 * out.m.channels, "channels of sums");
    check_same(r->m.rows, out.m.rows, "rows of sums");
  }
  if (!(count > 0)) bad_value("fold_mean: count must be positive");
  FoldMeanArgs args{out.m, sums.m, shift ? shift->m : Matrix{}, count};
  launch(kernels().fold_mean, args);
}

} // namespace

void bind_fold_mean(nb::module_& m) {
  bind(m, "fold_mean", call_fold_mean, "out"_a, "sums"_a, "shift"_a.none(), "count"_a);
}

} // namespace retouch

#endif
