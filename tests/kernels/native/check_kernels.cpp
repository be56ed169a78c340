// Checks the kernels of every instruction set of this processor against plain loops, without
// Python: for processors that the Python tests do not reach (run it under an emulator, say).
#include "code.h"
#include "dispatch.h"
#include "pack.h"
#include "pages.h"
#include "runtime.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

using namespace retouch;

namespace {

std::mt19937 generator(1);
int failures = 0;

std::vector<float> random_floats(size_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> x(count);
  for (float& v : x) v = normal(generator);
  return x;
}

std::vector<uint16_t> to_bf16(std::vector<float>& x) {
  std::vector<uint16_t> y(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    uint32_t u;
    memcpy(&u, &x[i], 4);
    y[i] = uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
    u = uint32_t(y[i]) << 16;
    memcpy(&x[i], &u, 4); // the reference works on the rounded values
  }
  return y;
}

Matrix matrix(void* data, int64_t rows, int64_t channels, DType dtype = DType::f32) {
  return {static_cast<char*>(data), rows, channels, channels, dtype};
}

void report(const char* what, const char* isa, double error, double bound) {
  bool good = error <= bound;
  failures += !good;
  printf("%-9s %-22s error %.2e (bound %.0e) %s\n", isa, what, error, bound,
         good ? "ok" : "FAILED");
}

double max_error(const std::vector<float>& got, const std::vector<double>& wanted) {
  double error = 0, size = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    error = std::max(error, std::isnan(got[i]) ? 1e9 : std::fabs(got[i] - wanted[i]));
    size = std::max(size, std::fabs(wanted[i]));
  }
  return error / size;
}

ProgramArgs program_args(const CompiledProgram& p, Matrix out, const RowOperand* rows,
                         const Matrix* vectors) {
  Code code{p.steps.data(), int32_t(p.steps.size()), p.slots, p.temps, p.whole_row};
  return {code, rows, vectors, nullptr, out, nullptr, out.channels, out.channels};
}

struct Shape {
  int64_t m, taps, channels, outputs;
};

void check_gemm(const KernelTable& k, const Shape& s, DType dtype) {
  int64_t total = s.m + 3;
  auto a = random_floats(size_t(total * s.channels));
  auto w = random_floats(size_t(s.outputs * s.taps * s.channels));
  auto bias = random_floats(size_t(s.outputs));
  std::vector<uint16_t> a16 = to_bf16(a), w16 = to_bf16(w);
  std::vector<int32_t> index(size_t(s.m * s.taps));
  for (int32_t& i : index) i = int32_t(generator() % unsigned(total + 1)) - 1;

  bool half = dtype == DType::bf16;
  PackedWeights packed{nullptr, s.outputs, s.taps, s.channels, 1, dtype, k.lanes, k.max_vectors};
  size_t bytes = size_t(packed_bytes(packed));
  Span pages = allocate_pages(bytes);
  char* data = static_cast<char*>(pages.data);
  pack_weights(packed, half ? static_cast<void*>(w16.data()) : w.data(),
               {s.taps * s.channels, s.channels, 1}, nullptr, data, 2);
  packed.data = data;

  std::vector<float> out(size_t(s.m * s.outputs));
  CompiledProgram p = compile_program({{"acc", 0, 0, 0}, {"vector", 0, 0, 0}, {"add", 0, 1, 0}});
  Matrix vector = matrix(bias.data(), 1, s.outputs);
  Matrix rows = matrix(half ? static_cast<void*>(a16.data()) : a.data(), total, s.channels, dtype);
  k.gemm({s.m, rows, index.data(), packed,
          program_args(p, matrix(out.data(), s.m, s.outputs), nullptr, &vector)},
         2);
  free_pages(pages);

  std::vector<double> wanted;
  for (int64_t m = 0; m < s.m; ++m)
    for (int64_t n = 0; n < s.outputs; ++n) {
      double sum = bias[size_t(n)];
      for (int64_t t = 0; t < s.taps; ++t) {
        int64_t line = index[size_t(m * s.taps + t)];
        for (int64_t c = 0; line >= 0 && c < s.channels; ++c)
          sum += double(a[size_t(line * s.channels + c)]) *
                 w[size_t((n * s.taps + t) * s.channels + c)];
      }
      wanted.push_back(sum);
    }
  report(half ? "gemm bfloat16" : "gemm float32", k.isa, max_error(out, wanted), 3e-6);
}

// Some positions of a map, in tiles from its first line and column.
void check_winograd(const KernelTable& k, DType dtype) {
  const int64_t height = 11, width = 14, channels = 45, outputs = 70;
  auto a = random_floats(height * width * channels), w = random_floats(outputs * 9 * channels);
  bool half = dtype == DType::bf16;
  std::vector<uint16_t> a16, w16;
  if (half) a16 = to_bf16(a), w16 = to_bf16(w);
  std::vector<int32_t> index;
  std::vector<std::array<int32_t, 4>> tiles((height + 1) / 2 * (width / 2), {-1, -1, -1, -1});
  std::vector<double> wanted;
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x) {
      if (generator() % 3 == 0) continue;
      int32_t m = int32_t(index.size() / 9);
      tiles[size_t(y / 2 * (width / 2) + x / 2)][size_t(y % 2 * 2 + x % 2)] = m;
      for (int64_t tap = 0; tap < 9; ++tap) {
        int64_t i = y + tap / 3 - 1, j = x + tap % 3 - 1;
        bool inside = i >= 0 && j >= 0 && i < height && j < width;
        index.push_back(inside ? int32_t(i * width + j) : -1);
      }
      for (int64_t n = 0; n < outputs; ++n) {
        double sum = 0;
        for (int64_t tap = 0; tap < 9; ++tap) {
          int64_t line = index[size_t(m * 9 + tap)];
          for (int64_t c = 0; line >= 0 && c < channels; ++c)
            sum += double(a[size_t(line * channels + c)]) * w[size_t((n * 9 + tap) * channels + c)];
        }
        wanted.push_back(sum);
      }
    }
  int64_t m = int64_t(index.size() / 9);
  PackedWeights packed{nullptr, outputs, 9, channels, 1, dtype, k.lanes, k.max_vectors};
  Span pages = allocate_pages(size_t(packed_bytes(packed)));
  char* data = static_cast<char*>(pages.data);
  pack_weights(packed, half ? static_cast<void*>(w16.data()) : w.data(),
               {9 * channels, channels, 1}, nullptr, data, 2);
  packed.data = data;
  std::vector<float> out(size_t(m * outputs));
  CompiledProgram p = compile_program({{"acc", 0, 0, 0}});
  Matrix rows =
      matrix(half ? static_cast<void*>(a16.data()) : a.data(), height * width, channels, dtype);
  GemmArgs product{m, rows, index.data(), packed,
                   program_args(p, matrix(out.data(), m, outputs), nullptr, nullptr)};
  auto listed = [](const std::array<int32_t, 4>& tile) {
    return std::count_if(tile.begin(), tile.end(), [](int32_t row) { return row >= 0; });
  };
  std::erase_if(tiles, [&](const auto& tile) { return !listed(tile); });
  auto single = [&](const auto& tile) { return listed(tile) == 1; };
  int64_t shared =
      std::stable_partition(tiles.begin(), tiles.end(), std::not_fn(single)) - tiles.begin();
  k.winograd({product, {tiles[0].data(), int64_t(tiles.size()), 4}, shared}, 2);
  free_pages(pages);
  report(half ? "winograd bfloat16" : "winograd", k.isa, max_error(out, wanted), 3e-6);
}

void check_attention(const KernelTable& k, DType dtype) {
  const int64_t m = 37, keys = 150, dim = 41;
  auto q = random_floats(m * dim), key = random_floats(keys * dim), v = random_floats(keys * dim);
  std::vector<uint16_t> q16 = to_bf16(q), k16 = to_bf16(key), v16 = to_bf16(v);
  bool half = dtype == DType::bf16;
  auto pick = [&](std::vector<float>& x, std::vector<uint16_t>& y, int64_t rows) {
    return matrix(half ? static_cast<void*>(y.data()) : x.data(), rows, dim, dtype);
  };
  std::vector<float> out(m * dim);
  int32_t bounds[2] = {0, int32_t(m)};
  KeyRun run{pick(key, k16, keys), pick(v, v16, keys), keys};
  k.attention({matrix(out.data(), m, dim),
               pick(q, q16, m),
               &run,
               1,
               nullptr,
               nullptr,
               1,
               dim,
               dim,
               1,
               keys,
               bounds,
               0.2f,
               {},
               nullptr,
               {},
               nullptr},
              2);
  std::vector<double> wanted;
  for (int64_t i = 0; i < m; ++i) {
    std::vector<double> weights;
    double sum = 0;
    for (int64_t j = 0; j < keys; ++j) {
      double dot = 0;
      for (int64_t c = 0; c < dim; ++c)
        dot += double(q[size_t(i * dim + c)]) * key[size_t(j * dim + c)];
      weights.push_back(std::exp(0.2 * dot));
      sum += weights.back();
    }
    for (int64_t c = 0; c < dim; ++c) {
      double x = 0;
      for (int64_t j = 0; j < keys; ++j) x += weights[size_t(j)] * v[size_t(j * dim + c)];
      wanted.push_back(x / sum);
    }
  }
  report(half ? "attention bfloat16" : "attention float32", k.isa, max_error(out, wanted),
         half ? 4e-3 : 3e-6);
}

void check_map(const KernelTable& k, const char* op, double (*f)(double)) {
  const int64_t m = 13, channels = 45;
  auto x = random_floats(m * channels);
  std::vector<float> out(x.size());
  CompiledProgram p = compile_program({{"rows", 0, 0, 0}, {op, 0, 0, 1e-5f}});
  RowOperand rows{matrix(x.data(), m, channels), nullptr};
  k.row_map({m, program_args(p, matrix(out.data(), m, channels), &rows, nullptr)}, 2);
  std::vector<double> wanted;
  for (float v : x) wanted.push_back(f(v));
  report(op, k.isa, max_error(out, wanted), 1e-6);
}

void check_sums(const KernelTable& k) {
  const int64_t m = 700, channels = 37;
  auto x = random_floats(m * channels);
  std::vector<double> sums(2 * channels), wanted(2 * channels);
  int32_t bounds[2] = {0, int32_t(m)};
  k.channel_sums({matrix(sums.data(), 1, 2 * channels, DType::f64), matrix(x.data(), m, channels),
                  nullptr, bounds, 1, 1.0},
                 2);
  double error = 0;
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t r = 0; r < m; ++r) {
      double v = x[size_t(r * channels + c)];
      wanted[size_t(c)] += v;
      wanted[size_t(channels + c)] += v * v;
    }
    error = std::max(error, std::fabs(sums[size_t(c)] - wanted[size_t(c)]));
    error = std::max(error, std::fabs(sums[size_t(channels + c)] - wanted[size_t(channels + c)]));
  }
  report("channel_sums", k.isa, error, 1e-9);
}

double value_of(const void* data, DType dtype, size_t i) {
  if (dtype == DType::f32) return static_cast<const float*>(data)[i];
  uint16_t h = static_cast<const uint16_t*>(data)[i];
  int mantissa_bits = dtype == DType::f16 ? 10 : 7, bias = dtype == DType::f16 ? 15 : 127;
  int exponent = (h & 0x7fff) >> mantissa_bits, mantissa = h & ((1 << mantissa_bits) - 1);
  double sign = h & 0x8000 ? -1 : 1;
  if (exponent == 2 * bias + 1) return mantissa ? NAN : sign * INFINITY;
  if (exponent) mantissa += 1 << mantissa_bits;
  return sign * std::ldexp(mantissa, std::max(exponent, 1) - bias - mantissa_bits);
}

// x to the nearest value of the type, ties to even.
double round_to(double x, DType dtype) {
  if (dtype == DType::f32 || x == 0 || !std::isfinite(x)) return x;
  int digits = dtype == DType::f16 ? 11 : 8, lowest = dtype == DType::f16 ? -14 : -126;
  int unit = std::max(std::ilogb(x), lowest) - digits + 1;
  double y = std::ldexp(std::nearbyint(std::ldexp(x, -unit)), unit);
  double limit = std::ldexp(1.0, dtype == DType::f16 ? 16 : 128);
  return std::fabs(y) < limit ? y : std::copysign(INFINITY, x);
}

bool same(double a, double b) {
  return (std::isnan(a) && std::isnan(b)) || (a == b && std::signbit(a) == std::signbit(b));
}

// Every 16-bit pattern, or random 32-bit ones at and beside the ties of every rounding.
std::vector<uint32_t> patterns(DType dtype) {
  std::vector<uint32_t> x(dtype == DType::f32 ? 1 << 18 : 1 << 15);
  for (uint32_t i = 0; i < x.size(); ++i) {
    uint32_t unit = 1u << (13 + i / 3 % 12), tie = (uint32_t(generator()) & -unit) + unit / 2;
    x[i] = dtype == DType::f32 ? tie + i % 3 - 1 : (2 * i + 1) << 16 | 2 * i;
  }
  return x;
}

void check_convert(const KernelTable& k, DType to, DType from) {
  const char* names[] = {"float32", "bfloat16", "float16"};
  std::vector<uint32_t> x = patterns(from);
  size_t count = x.size() * (from == DType::f32 ? 1 : 2);
  int64_t channels = 37, rows = int64_t(count) / channels;
  std::vector<float> out(count);
  k.copy_rows({matrix(out.data(), rows, channels, to), matrix(x.data(), rows, channels, from),
               nullptr, nullptr, rows},
              2);
  int wrong = 0;
  for (size_t i = 0; i < size_t(rows * channels); ++i)
    wrong += !same(value_of(out.data(), to, i), round_to(value_of(x.data(), from, i), to));
  report((std::string(names[int(from)]) + " to " + names[int(to)]).c_str(), k.isa, wrong, 0);
}

} // namespace

int main() {
  for (const std::string& name : available_isas()) {
    set_isa(name);
    const KernelTable& k = kernels();
    for (DType dtype : {DType::f32, DType::bf16}) {
      for (Shape s : {Shape{1, 9, 3, 3}, {50, 9, 33, 70}, {7, 1, 901, 64}, {130, 4, 16, 20}})
        check_gemm(k, s, dtype);
      check_attention(k, dtype);
      check_winograd(k, dtype);
    }
    check_map(k, "silu", [](double x) { return x / (1 + std::exp(-x)); });
    check_map(k, "exp", [](double x) { return std::exp(x); });
    check_map(k, "tanh", [](double x) { return std::tanh(x); });
    check_map(k, "gelu", [](double x) { return x * 0.5 * (1 + std::erf(x / std::sqrt(2.0))); });
    check_map(k, "abs", [](double x) { return std::fabs(x); });
    check_sums(k);
    for (DType to : {DType::f32, DType::bf16, DType::f16})
      for (DType from : {DType::f32, DType::bf16, DType::f16})
        if (to != from) check_convert(k, to, from);
  }
  printf(failures ? "%d FAILED\n" : "all passed\n", failures);
  return failures != 0;
}
