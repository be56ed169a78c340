#include "fold_norm.h"

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

void fold_norm(const FoldNormArgs& f) {
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
