#include "program.h"

#include "runtime.h"
#include "vecmath.h"

namespace retouch::RETOUCH_NS {

namespace {

// Rows of floats: row r of the tile is base + line(r) * ld.
struct View {
  const float* base;
  int64_t ld, first;
  const int32_t* index; // line of row first + r; nullptr: first + r itself
};

struct Target {
  float* base;
  int64_t ld, first;
  const int32_t* index;
};

struct Tile {
  const ProgramArgs& args;
  const TileSpan& span;
  const float* acc;
  int64_t acc_ld;
  float* scratch;
  int64_t ld; // of a slot

  float* slot(int64_t i) const { return scratch + i * span.rows * ld; }
};

RETOUCH_INLINE const float* row_of(const View& v, int64_t r, const float* zeros) {
  int64_t line = v.first + r;
  if (v.index) {
    line = v.index[line];
    if (line < 0) return zeros;
  }
  return v.base + line * v.ld;
}

RETOUCH_INLINE float* row_of(const Target& t, int64_t r) {
  int64_t line = t.first + r;
  return t.base + (t.index ? t.index[line] : line) * t.ld;
}

template <int N, class F>
__attribute__((noinline)) void map_tile(const Tile& tile, const View* src, const Target& dst, F f) {
  const float* zeros = static_cast<const float*>(zero_row(tile.span.columns * sizeof(float)));
  int64_t whole = tile.span.columns / lanes * lanes, rest = tile.span.columns - whole;
  for (int64_t r = 0; r < tile.span.rows; ++r) {
    const float* a = row_of(src[0], r, zeros);
    const float* b = N > 1 ? row_of(src[1], r, zeros) : a;
    const float* c = N > 2 ? row_of(src[2], r, zeros) : a;
    float* d = row_of(dst, r);
    for (int64_t j = 0; j < whole; j += lanes) {
      if constexpr (N == 1) store(d + j, f(load(a + j)));
      if constexpr (N == 2) store(d + j, f(load(a + j), load(b + j)));
      if constexpr (N == 3) store(d + j, f(load(a + j), load(b + j), load(c + j)));
    }
    if (!rest) continue;
    vf x = load_part(a + whole, rest);
    if constexpr (N == 1) store_part(d + whole, f(x), rest);
    if constexpr (N == 2) store_part(d + whole, f(x, load_part(b + whole, rest)), rest);
    if constexpr (N == 3)
      store_part(d + whole, f(x, load_part(b + whole, rest), load_part(c + whole, rest)), rest);
  }
}

// --- operands

void fill_row(float* row, int64_t columns, float x) {
  for (int64_t j = 0; j < columns; ++j) row[j] = x;
}

template <class T>
float scalar_at(const Matrix& m, int64_t line) {
  if constexpr (sizeof(T) == 4) return reinterpret_cast<const float*>(m.data)[line * m.ld];
  uint32_t word = uint32_t(reinterpret_cast<const uint16_t*>(m.data)[line * m.ld]) << 16;
  float x;
  memcpy(&x, &word, 4);
  return x;
}

void convert_row(const bf16* from, float* to, int64_t columns) {
  int64_t j = 0;
  for (; j + lanes <= columns; j += lanes) store(to + j, load(from + j));
  if (j < columns) store_part(to + j, load_part(from + j, columns - j), columns - j);
}

// Brings rows that are bf16 or one column wide into a temporary.
View stage(const Tile& tile, const Matrix& m, const int32_t* index, bool vector, float* temp) {
  const TileSpan& s = tile.span;
  for (int64_t r = 0; r < s.rows; ++r) {
    float* to = temp + r * tile.ld;
    int64_t line = index ? index[s.row + r] : vector ? 0 : s.row + r;
    if (line < 0) {
      fill_row(to, s.columns, 0.f);
    } else if (m.channels == 1) {
      fill_row(to, s.columns,
               m.dtype == DType::f32 ? scalar_at<float>(m, line) : scalar_at<bf16>(m, line));
    } else {
      convert_row(reinterpret_cast<const bf16*>(m.data) + line * m.ld + s.column, to, s.columns);
    }
  }
  return {temp, tile.ld, 0, nullptr};
}

View operand(const Tile& tile, const Source& s) {
  const TileSpan& span = tile.span;
  float* temp = tile.slot(tile.args.code.slots + s.temp);
  switch (s.kind) {
  case Source::slot:
    return {tile.slot(s.id), tile.ld, 0, nullptr};
  case Source::acc:
    return {tile.acc, tile.acc_ld, 0, nullptr};
  case Source::constant: {
    fill_row(temp, span.columns, s.value);
    return {temp, 0, 0, nullptr};
  }
  case Source::vector: {
    const Matrix& m = tile.args.vectors[s.id];
    const int32_t* sample = m.rows == 1 ? nullptr : tile.args.sample;
    if (m.channels == 1) return stage(tile, m, sample, true, temp);
    const float* base = reinterpret_cast<const float*>(m.data) + span.column;
    return {base, sample ? m.ld : 0, span.row, sample};
  }
  case Source::rows: {
    const RowOperand& o = tile.args.rows[s.id];
    if (o.rows.channels == 1 || o.rows.dtype == DType::bf16)
      return stage(tile, o.rows, o.index, false, temp);
    return {reinterpret_cast<const float*>(o.rows.data) + span.column, o.rows.ld, span.row,
            o.index};
  }
  default:
    return {};
  }
}

// --- whole-row steps

template <class F>
float reduce_row(const float* x, int64_t columns, F f) {
  vf sums[4] = {};
  int64_t j = 0;
  for (; j + 4 * lanes <= columns; j += 4 * lanes)
    for (int u = 0; u < 4; ++u) sums[u] += f(load(x + j + u * lanes));
  for (; j + lanes <= columns; j += lanes) sums[0] += f(load(x + j));
  float sum = sum_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
  if (j == columns) return sum;
  vf tail = f(load_part(x + j, columns - j));
  for (int64_t i = 0; i < columns - j; ++i) sum += tail[i];
  return sum;
}

template <class F>
void write_row(const float* x, float* d, int64_t columns, F f) {
  int64_t j = 0;
  for (; j + lanes <= columns; j += lanes) store(d + j, f(load(x + j)));
  if (j < columns) store_part(d + j, f(load_part(x + j, columns - j)), columns - j);
}

void normalise_row(Op op, float imm, const float* x, float* d, int64_t n) {
  if (op == Op::rms_norm) {
    float square = reduce_row(x, n, [](vf v) { return v * v; }) / float(n);
    float scale = 1.f / __builtin_sqrtf(square + imm);
    return write_row(x, d, n, [=](vf v) { return v * scale; });
  }
  float mean = reduce_row(x, n, [](vf v) { return v; }) / float(n);
  if (op == Op::row_mean) return fill_row(d, n, mean);
  float var = reduce_row(x, n, [=](vf v) { return (v - mean) * (v - mean); }) / float(n);
  float scale = 1.f / __builtin_sqrtf(var + imm);
  write_row(x, d, n, [=](vf v) { return (v - mean) * scale; });
}

void whole_row(const Tile& tile, Op op, float imm, const View& src, const Target& dst) {
  const float* zeros = static_cast<const float*>(zero_row(tile.span.columns * sizeof(float)));
  for (int64_t r = 0; r < tile.span.rows; ++r)
    normalise_row(op, imm, row_of(src, r, zeros), row_of(dst, r), tile.span.columns);
}

// --- steps

void run_step(const Tile& tile, const Step& step, const View* s, const Target& d) {
  const float imm = step.imm;
  switch (step.op) {
  case Op::add:
    return map_tile<2>(tile, s, d, [](vf a, vf b) { return a + b; });
  case Op::sub:
    return map_tile<2>(tile, s, d, [](vf a, vf b) { return a - b; });
  case Op::mul:
    return map_tile<2>(tile, s, d, [](vf a, vf b) { return a * b; });
  case Op::div:
    return map_tile<2>(tile, s, d, [](vf a, vf b) { return a / b; });
  case Op::maximum:
    return map_tile<2>(tile, s, d, [](vf a, vf b) { return (a > b) | (a != a) ? a : b; });
  case Op::minimum:
    return map_tile<2>(tile, s, d, [](vf a, vf b) { return (a < b) | (a != a) ? a : b; });
  case Op::affine:
    return map_tile<3>(tile, s, d, [](vf a, vf b, vf c) { return fma(a, b, c); });
  case Op::affine_silu:
    return map_tile<3>(tile, s, d, [](vf a, vf b, vf c) { return silu_of(fma(a, b, c)); });
  case Op::add_add:
    return map_tile<3>(tile, s, d, [](vf a, vf b, vf c) { return (a + b) + c; });
  case Op::copy:
    return map_tile<1>(tile, s, d, [](vf x) { return x; });
  case Op::neg:
    return map_tile<1>(tile, s, d, [](vf x) { return -x; });
  case Op::abs:
    return map_tile<1>(tile, s, d, [](vf x) { return abs_of(x); });
  case Op::reciprocal:
    return map_tile<1>(tile, s, d, [](vf x) { return 1.f / x; });
  case Op::sqrt:
    return map_tile<1>(tile, s, d, [](vf x) { return sqrt_of(x); });
  case Op::rsqrt:
    return map_tile<1>(tile, s, d, [](vf x) { return 1.f / sqrt_of(x); });
  case Op::exp:
    return map_tile<1>(tile, s, d, [](vf x) { return exp_of(x); });
  case Op::log:
    return map_tile<1>(tile, s, d, [](vf x) { return log_of(x); });
  case Op::silu:
    return map_tile<1>(tile, s, d, [](vf x) { return silu_of(x); });
  case Op::gelu:
    return map_tile<1>(tile, s, d, [](vf x) { return gelu_of(x); });
  case Op::gelu_tanh:
    return map_tile<1>(tile, s, d, [](vf x) { return gelu_tanh_of(x); });
  case Op::relu:
    return map_tile<1>(tile, s, d, [](vf x) { return at_least(x, 0.f); });
  case Op::leaky_relu:
    return map_tile<1>(tile, s, d, [=](vf x) { return x < 0.f ? x * imm : x; });
  case Op::tanh:
    return map_tile<1>(tile, s, d, [](vf x) { return tanh_of(x); });
  case Op::sigmoid:
    return map_tile<1>(tile, s, d, [](vf x) { return sigmoid_of(x); });
  case Op::pow:
    return map_tile<1>(tile, s, d, [=](vf x) { return pow_of(x, imm); });
  case Op::hardswish:
    return map_tile<1>(tile, s, d,
                       [](vf x) { return x * at_most(at_least(x + 3.f, 0.f), 6.f) / 6.f; });
  case Op::hardsigmoid:
    return map_tile<1>(tile, s, d, [](vf x) { return at_most(at_least(x + 3.f, 0.f), 6.f) / 6.f; });
  case Op::elu:
    return map_tile<1>(tile, s, d, [=](vf x) { return x > 0.f ? x : expm1_of(x) * imm; });
  case Op::softplus:
    return map_tile<1>(tile, s, d, [](vf x) { return softplus_of(x); });
  default:
    return whole_row(tile, step.op, imm, s[0], d);
  }
}

template <class T>
void store_result(const Tile& tile, const float* result) {
  const ProgramArgs& args = tile.args;
  const TileSpan& span = tile.span;
  const int64_t columns = min_of(span.columns, args.out.channels - span.column);
  for (int64_t r = 0; r < span.rows; ++r, result += tile.ld) {
    int64_t line = args.out_index ? args.out_index[span.row + r] : span.row + r;
    T* to = reinterpret_cast<T*>(args.out.data) + line * args.out.ld + span.column;
    int64_t j = 0;
    for (; j + lanes <= columns; j += lanes) store(to + j, load(result + j));
    if (j < columns) store_part(to + j, load_part(result + j, columns - j), columns - j);
  }
}

} // namespace

int64_t tile_scratch(const Code& code, int64_t rows, int64_t columns) {
  return int64_t(code.slots + code.temps + 1) * rows * round_up(columns, lanes);
}

void run_tile(const ProgramArgs& args, const TileSpan& span, const float* acc, int64_t acc_ld,
              float* scratch) {
  Tile tile{args, span, acc, acc_ld, scratch, round_up(span.columns, lanes)};
  const Code& code = args.code;
  bool direct = args.out.dtype == DType::f32 && args.out.channels == args.width;
  float* result = tile.slot(code.slots + code.temps);
  for (int i = 0; i < code.count; ++i) {
    const Step& step = code.steps[i];
    View src[3];
    for (int k = 0; k < 3 && step.src[k].kind != Source::none; ++k)
      src[k] = operand(tile, step.src[k]);
    Target dst{step.dst >= 0 ? tile.slot(step.dst) : result, tile.ld, 0, nullptr};
    if (step.dst < 0 && direct)
      dst = {reinterpret_cast<float*>(args.out.data) + span.column, args.out.ld, span.row,
             args.out_index};
    run_step(tile, step, src, dst);
  }
  if (direct) return;
  if (span.column >= args.out.channels) return;
  if (args.out.dtype == DType::bf16)
    store_result<bf16>(tile, result);
  else
    store_result<float>(tile, result);
}

} // namespace retouch::RETOUCH_NS
