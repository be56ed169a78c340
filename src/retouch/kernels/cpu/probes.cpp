// How rows move between two runs, as told by a few of them: see retouch/ops/sums.py.
#ifndef RETOUCH_BIND
#include "common.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace retouch {

namespace {

constexpr double lowest_scale = 0.25, highest_scale = 4;
constexpr double tiny = 1e-12;

double at(const Gathered& x, int64_t m, int64_t channel) {
  int64_t line = x.index ? x.index[m] : m;
  if (line < 0) return 0;
  const char* row = x.rows.data + line * x.rows.ld * (x.rows.dtype == DType::f32 ? 4 : 2);
  if (x.rows.dtype == DType::f32) return reinterpret_cast<const float*>(row)[channel];
  uint32_t bits = uint32_t(reinterpret_cast<const uint16_t*>(row)[channel]) << 16;
  float wide;
  memcpy(&wide, &bits, sizeof(wide));
  return wide;
}

struct Summary {
  std::vector<double> mean, deviation;

  Summary(const Gathered& x, int64_t first, int64_t last)
      : mean(size_t(x.rows.channels)), deviation(mean.size()) {
    add(x, first, last, [](double v, double) { return v; }, mean);
    add(x, first, last, [](double v, double m) { return (v - m) * (v - m); }, deviation);
    for (double& d : deviation) d = std::sqrt(d) + tiny;
  }

 private:
  template <class F>
  void add(const Gathered& x, int64_t first, int64_t last, F f, std::vector<double>& sums) {
    double share = 1.0 / double(last - first);
    std::vector<double> total(mean.size());
    for (int64_t m = first; m < last; ++m)
      for (size_t c = 0; c < total.size(); ++c) total[c] += f(at(x, m, int64_t(c)), mean[c]);
    for (size_t c = 0; c < total.size(); ++c) sums[c] = total[c] * share;
  }
};

} // namespace

// fit float32 [samples, 2 * channels]: scales, then shifts, that match mean and deviation of
// `before` with those of `after` over rows bounds[b] to bounds[b + 1].
void fit_probes(const FitProbesArgs& f, int) {
  int64_t channels = f.before.rows.channels;
  for (int64_t b = 0; b < f.samples; ++b) {
    float* scale = reinterpret_cast<float*>(f.fit.data) + b * f.fit.ld;
    float* shift = scale + channels;
    std::fill_n(scale, channels, 1.0f);
    std::fill_n(shift, channels, 0.0f);
    if (f.bounds[b] == f.bounds[b + 1]) continue;
    Summary before(f.before, f.bounds[b], f.bounds[b + 1]);
    Summary after(f.after, f.bounds[b], f.bounds[b + 1]);
    for (int64_t c = 0; c < channels; ++c) {
      size_t i = size_t(c);
      double a = std::clamp(after.deviation[i] / before.deviation[i], lowest_scale, highest_scale);
      scale[c] = float(a);
      shift[c] = float(after.mean[i] - a * before.mean[i]);
    }
  }
}

// shifts float64 [samples, 2 * channels]: by how much sums and sums of squares change when x
// becomes scale * x + shift.
void move_sums(const MoveSumsArgs& s, int) {
  int64_t channels = s.scale.channels;
  for (int64_t sample = 0; sample < s.shifts.rows; ++sample) {
    double rows = s.count - double(s.bounds[sample + 1] - s.bounds[sample]);
    double* out = reinterpret_cast<double*>(s.shifts.data) + sample * s.shifts.ld;
    const double* sums = reinterpret_cast<const double*>(s.sums.data) + sample * s.sums.ld;
    const float* scale = reinterpret_cast<const float*>(s.scale.data) + sample * s.scale.ld;
    const float* shift = reinterpret_cast<const float*>(s.shift.data) + sample * s.shift.ld;
    for (int64_t c = 0; c < channels; ++c) {
      double a = scale[c], b = shift[c], total = sums[c], squares = sums[channels + c];
      out[c] = (a - 1) * total + rows * b;
      out[channels + c] = (a * a - 1) * squares + 2 * a * b * total + rows * b * b;
    }
  }
}

} // namespace retouch

#else
#include "calls.h"

namespace retouch {

using namespace nb::literals;

namespace {

void call_fit_probes(const Rows& out, const Rows& before, const Index* before_index,
                     const Rows& after, const Index* after_index, const Index& bounds) {
  check_dtype(out, {DType::f32}, "fit");
  check_float(before, "before");
  check_float(after, "after");
  int64_t samples = check_bounds(bounds, "fit_probes"), rows = bounds.table.data[samples];
  check_same(out.m.rows, samples, "rows of fit");
  check_same(out.m.channels, 2 * before.m.channels, "channels of fit");
  check_same(after.m.channels, before.m.channels, "channels of after");
  FitProbesArgs args{out.m,
                     {before.m, check_gather(before, before_index, rows, 1, "before_index")},
                     {after.m, check_gather(after, after_index, rows, 1, "after_index")},
                     bounds.table.data,
                     samples};
  launch(kernels().fit_probes, args);
}

void call_move_sums(const Rows& shifts, const Rows& sums, const Rows& scale, const Rows& shift,
                    double count, const Index& bounds) {
  int64_t samples = check_bounds(bounds, "move_sums");
  for (const Rows* r : {&shifts, &sums}) {
    check_dtype(*r, {DType::f64}, "sums");
    check_same(r->m.channels, 2 * scale.m.channels, "channels of sums");
  }
  for (const Rows* r : {&scale, &shift}) check_dtype(*r, {DType::f32}, "fit");
  check_same(shift.m.channels, scale.m.channels, "channels of shift");
  for (const Rows* r : {&shifts, &sums, &scale, &shift})
    check_same(r->m.rows, samples, "rows of sums and fit");
  MoveSumsArgs args{shifts.m, sums.m, scale.m, shift.m, count, bounds.table.data};
  launch(kernels().move_sums, args);
}

} // namespace

void bind_fit_probes(nb::module_& m) {
  bind(m, "fit_probes", call_fit_probes, "fit"_a, "before"_a, "before_index"_a.none(), "after"_a,
       "after_index"_a.none(), "bounds"_a);
}

void bind_move_sums(nb::module_& m) {
  bind(m, "move_sums", call_move_sums, "shifts"_a, "sums"_a, "scale"_a, "shift"_a, "count"_a,
       "bounds"_a);
}

} // namespace retouch

#endif
