#ifndef RETOUCH_BIND
#include "common.h"

#include <algorithm>
#include <cmath>

namespace retouch {

namespace {

// Sum and sum of squares of channel c of the concatenated parts.
struct Moments {
  double sum, square;
};

class Parts {
 public:
  Parts(const FoldNormArgs& f, int64_t sample) : f(f), sample(sample) {}

  Moments next() {
    while (channel == f.parts[part].channels / 2) ++part, channel = 0;
    const Matrix& m = f.parts[part];
    const double* row = reinterpret_cast<const double*>(m.data) + sample * m.ld;
    Moments found{row[channel], row[channel + m.channels / 2]};
    if (f.shifts) {
      const Matrix& s = f.shifts[part];
      const double* shift = reinterpret_cast<const double*>(s.data) + sample * s.ld;
      found.sum += shift[channel];
      found.square += shift[channel + m.channels / 2];
    }
    ++channel;
    return found;
  }

 private:
  const FoldNormArgs& f;
  int64_t sample, part = 0, channel = 0;
};

} // namespace

// parts: float64 [samples, 2 * channels of the part], sums then sums of squares; out: float32
// [samples, 2 * channels], gamma * rstd, then beta - mean * gamma * rstd, per group of channels.
// shifts are added to the parts.
void fold_norm(const FoldNormArgs& f, int) {
  int64_t channels = f.out.channels / 2, width = channels / f.groups;
  double count = f.count * double(width);
  for (int64_t b = 0; b < f.out.rows; ++b) {
    float* scale = reinterpret_cast<float*>(f.out.data) + b * f.out.ld;
    Parts parts(f, b);
    for (int64_t g = 0; g < f.groups; ++g) {
      double sum = 0, square = 0;
      for (int64_t c = 0; c < width; ++c) {
        Moments m = parts.next();
        sum += m.sum;
        square += m.square;
      }
      double mean = sum / count;
      double rstd = 1 / std::sqrt(std::max(square / count - mean * mean, 0.0) + f.eps);
      for (int64_t c = g * width; c < (g + 1) * width; ++c) {
        double s = (f.gamma ? f.gamma[c] : 1.0) * rstd;
        scale[c] = float(s);
        scale[channels + c] = float((f.beta ? f.beta[c] : 0.0) - mean * s);
      }
    }
  }
}

} // namespace retouch

#else
#include "calls.h"

#include <vector>

namespace retouch {

using namespace nb::literals;

namespace {

const float* norm_vector(const Rows* v, int64_t channels, const char* what) {
  if (!v) return nullptr;
  check_dtype(*v, {DType::f32}, what);
  check_same(v->m.channels, channels, what);
  if (v->m.rows < 1) bad_value(std::string(what) + " is empty");
  return reinterpret_cast<const float*>(v->m.data);
}

// float64 [samples, 2 * channels of the part], the channels of all parts together as given.
std::vector<Matrix> sums_of(const PartList& parts, int64_t samples, int64_t channels) {
  int64_t found = 0;
  std::vector<Matrix> list;
  for (const List::Item& item : parts.items) {
    const Rows& part = *item.rows;
    check_dtype(part, {DType::f64}, "parts");
    check_same(part.m.rows, samples, "rows of a part");
    found += part.m.channels / 2;
    list.push_back(part.m);
  }
  if (list.size()) check_same(found, channels, "channels of the parts together");
  return list;
}

void call_fold_norm(const Rows& out, const PartList& parts, const PartList& shifts, int64_t groups,
                    double count, double eps, const Rows* gamma, const Rows* beta) {
  check_dtype(out, {DType::f32}, "out");
  int64_t channels = out.m.channels / 2;
  std::vector<Matrix> list = sums_of(parts, out.m.rows, channels);
  std::vector<Matrix> moved = sums_of(shifts, out.m.rows, channels);
  if (list.empty()) bad_value("fold_norm: there are no parts");
  if (!moved.empty()) {
    check_same(int64_t(moved.size()), int64_t(list.size()), "number of shifts");
    for (size_t i = 0; i < list.size(); ++i)
      check_same(moved[i].channels, list[i].channels, "channels of a shift");
  }
  if (groups < 1 || channels % groups != 0)
    bad_value("fold_norm: " + str(channels) + " channels do not divide into " + str(groups) +
              " groups");
  if (!(count > 0)) bad_value("fold_norm: count must be positive");
  FoldNormArgs args{out.m,
                    list.data(),
                    moved.empty() ? nullptr : moved.data(),
                    int64_t(list.size()),
                    groups,
                    count,
                    eps,
                    norm_vector(gamma, channels, "channels of gamma"),
                    norm_vector(beta, channels, "channels of beta")};
  launch(kernels().fold_norm, args);
}

} // namespace

void bind_fold_norm(nb::module_& m) {
  bind(m, "fold_norm", call_fold_norm, "out"_a, "parts"_a, "shifts"_a, "groups"_a, "count"_a,
       "eps"_a, "gamma"_a.none() = nb::none(), "beta"_a.none() = nb::none());
}

} // namespace retouch

#endif
