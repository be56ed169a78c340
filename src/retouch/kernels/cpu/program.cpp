#include "program.h"

#include "runtime.h"
#include "vecmath.h"

namespace retouch::RETOUCH_NS {

namespace {

// Rows of float32 or bf16: row r of the tile is line first + r, or what the index has there.
template <class Byte>
struct Span {
  Byte* base;
  int64_t ld_bytes, first;
  const int32_t* index;
  bool half; // bf16
};

template <bool B>
struct Flag {
  static constexpr bool value = B;
};

using View = Span<const char>;
using Target = Span<char>;

struct Tile {
  const ProgramArgs& args;
  const TileSpan& span;
  const float* acc;
  int64_t acc_ld;
  float* scratch;
  int64_t ld; // of a slot

  float* slot(int64_t i) const { return scratch + i * span.rows * ld; }

  static View view(const float* rows, int64_t ld) {
    return {reinterpret_cast<const char*>(rows), ld * 4, 0, nullptr, false};
  }
};

template <class Byte>
RETOUCH_INLINE Byte* row_of(const Span<Byte>& s, int64_t r, Byte* zeros) {
  int64_t line = s.first + r;
  if (s.index) {
    line = s.index[line];
    if (line < 0) return zeros;
  }
  return s.base + line * s.ld_bytes;
}

// Columns j .. j + n - 1 of a row; the branches are the same for a whole tile.
template <bool Whole>
RETOUCH_INLINE vf read(const char* row, bool half, int64_t j, int64_t n) {
  if (half) {
    const bf16* p = reinterpret_cast<const bf16*>(row) + j;
    return Whole ? load(p) : load_part(p, n);
  }
  const float* p = reinterpret_cast<const float*>(row) + j;
  return Whole ? load(p) : load_part(p, n);
}

template <bool Whole>
RETOUCH_INLINE void write(char* row, bool half, int64_t j, int64_t n, vf x) {
  if (half) {
    bf16* p = reinterpret_cast<bf16*>(row) + j;
    Whole ? store(p, x) : store_part(p, x, n);
  } else {
    float* p = reinterpret_cast<float*>(row) + j;
    Whole ? store(p, x) : store_part(p, x, n);
  }
}

const char* zeros_for(const Tile& tile) {
  return static_cast<const char*>(zero_row(tile.span.columns * sizeof(float)));
}

// Which of three sources and the target are bf16.
struct Halves {
  bool a, b, c, d;
};

template <int N, class F>
RETOUCH_INLINE void map_rows(const Tile& tile, const View* src, const Target& dst,
                             const Halves& half, F f) {
  const char* zeros = zeros_for(tile);
  int64_t whole = tile.span.columns / lanes * lanes, rest = tile.span.columns - whole;
  for (int64_t r = 0; r < tile.span.rows; ++r) {
    const char* a = row_of(src[0], r, zeros);
    const char* b = N > 1 ? row_of(src[1], r, zeros) : a;
    const char* c = N > 2 ? row_of(src[2], r, zeros) : a;
    char* d = row_of<char>(dst, r, nullptr);
    auto columns = [&](auto all, int64_t j, int64_t n) __attribute__((always_inline)) {
      constexpr bool Whole = decltype(all)::value;
      vf x = read<Whole>(a, half.a, j, n);
      if constexpr (N == 1) x = f(x);
      if constexpr (N == 2) x = f(x, read<Whole>(b, half.b, j, n));
      if constexpr (N == 3) x = f(x, read<Whole>(b, half.b, j, n), read<Whole>(c, half.c, j, n));
      write<Whole>(d, half.d, j, n, x);
    };
    for (int64_t j = 0; j < whole; j += lanes) columns(Flag<true>{}, j, lanes);
    if (rest) columns(Flag<false>{}, whole, rest);
  }
}

// The common mixes of dtypes have loops of their own, without branches.
template <int N, class F>
__attribute__((noinline)) void map_tile(const Tile& tile, const View* src, const Target& dst, F f) {
  Halves half{src[0].half, N > 1 && src[1].half, N > 2 && src[2].half, dst.half};
  if (!half.b && !half.c && half.a == half.d) {
    if (half.a)
      map_rows<N>(tile, src, dst, Halves{true, false, false, true}, f);
    else
      map_rows<N>(tile, src, dst, Halves{}, f);
  } else {
    map_rows<N>(tile, src, dst, half, f);
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

// Spreads rows of one column over a temporary.
View broadcast(const Tile& tile, const Matrix& m, const int32_t* index, bool vector, float* temp) {
  const TileSpan& s = tile.span;
  for (int64_t r = 0; r < s.rows; ++r) {
    int64_t line = index ? index[s.row + r] : vector ? 0 : s.row + r;
    float x = line < 0                ? 0.f
              : m.dtype == DType::f32 ? scalar_at<float>(m, line)
                                      : scalar_at<bf16>(m, line);
    fill_row(temp + r * tile.ld, s.columns, x);
  }
  return tile.view(temp, tile.ld);
}

int64_t first_column(const Tile& tile, const Matrix& m) {
  return m.channels == tile.args.width ? tile.span.column : tile.span.column % tile.args.head;
}

View operand(const Tile& tile, const Source& s) {
  const TileSpan& span = tile.span;
  float* temp = tile.slot(tile.args.code.slots + s.temp);
  switch (s.kind) {
  case Source::slot:
    return tile.view(tile.slot(s.id), tile.ld);
  case Source::acc:
    return tile.view(tile.acc, tile.acc_ld);
  case Source::constant:
    fill_row(temp, span.columns, s.value);
    return tile.view(temp, 0);
  case Source::vector: {
    const Matrix& m = tile.args.vectors[s.id];
    const int32_t* sample = m.rows == 1 ? nullptr : tile.args.sample;
    if (m.channels == 1) return broadcast(tile, m, sample, true, temp);
    return {m.data + first_column(tile, m) * 4, sample ? m.ld * 4 : 0, span.row, sample, false};
  }
  case Source::rows: {
    const RowOperand& o = tile.args.rows[s.id];
    if (o.rows.channels == 1) return broadcast(tile, o.rows, o.index, false, temp);
    bool half = o.rows.dtype == DType::bf16;
    int64_t item = half ? 2 : 4;
    return {o.rows.data + first_column(tile, o.rows) * item, o.rows.ld * item, span.row, o.index,
            half};
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
void write_row(const float* x, char* d, bool half, int64_t columns, F f) {
  int64_t j = 0, rest = columns % lanes;
  for (; j + lanes <= columns; j += lanes) write<true>(d, half, j, lanes, f(load(x + j)));
  if (rest) write<false>(d, half, j, rest, f(load_part(x + j, rest)));
}

// The largest number of a row, NaN if there is one.
float largest_of(const float* x, int64_t columns) {
  float largest = x[0];
  for (int64_t j = 1; j < columns; ++j)
    largest = (x[j] > largest) | (x[j] != x[j]) ? x[j] : largest;
  return largest;
}

void normalise_row(const Step& step, const float* x, char* d, bool half, int64_t n) {
  if (step.op == Op::rms_norm) {
    float square = reduce_row(x, n, [](vf v) { return v * v; }) / float(n);
    float scale = 1.f / __builtin_sqrtf(square + step.imm);
    return write_row(x, d, half, n, [=](vf v) { return v * scale; });
  }
  if (step.op == Op::swap)
    return write_row(x, d, half, n, [](vf v) {
      vf other;
      for (int i = 0; i < lanes; ++i) other[i] = v[i ^ 1];
      return other;
    });
  if (step.op == Op::row_max) {
    float largest = largest_of(x, n);
    return write_row(x, d, half, n, [=](vf) { return set1(largest); });
  }
  float mean = reduce_row(x, n, [](vf v) { return v; }) / float(n);
  if (step.op == Op::row_mean) return write_row(x, d, half, n, [=](vf) { return set1(mean); });
  float var = reduce_row(x, n, [=](vf v) { return (v - mean) * (v - mean); }) / float(n);
  float scale = 1.f / __builtin_sqrtf(var + step.imm);
  write_row(x, d, half, n, [=](vf v) { return (v - mean) * scale; });
}

// The row is read several times: from memory where it is float32, else from a temporary.
void whole_row(const Tile& tile, const Step& step, const View& src, const Target& dst) {
  const char* zeros = zeros_for(tile);
  float* temp = tile.slot(tile.args.code.slots + step.src[0].temp);
  for (int64_t r = 0; r < tile.span.rows; ++r) {
    const char* row = row_of(src, r, zeros);
    const float* x = reinterpret_cast<const float*>(row);
    if (src.half && row != zeros) {
      const bf16* from = reinterpret_cast<const bf16*>(row);
      int64_t j = 0, columns = tile.span.columns, rest = columns % lanes;
      for (; j + lanes <= columns; j += lanes) store(temp + j, load(from + j));
      if (rest) store_part(temp + j, load_part(from + j, rest), rest);
      x = temp;
    }
    normalise_row(step, x, row_of<char>(dst, r, nullptr), dst.half, tile.span.columns);
  }
}

// --- steps

void run_step(const Tile& tile, const Step& step, const View* s, const Target& d) {
  const float imm = step.imm;
  switch (step.op) {
#define RETOUCH_TWO(name, ...)                                                                     \
  case Op::name:                                                                                   \
    return map_tile<2>(tile, s, d, [](vf x, vf y) { return __VA_ARGS__; });
#define RETOUCH_ONE(name, ...)                                                                     \
  case Op::name:                                                                                   \
    return map_tile<1>(tile, s, d, [=](vf x) { return __VA_ARGS__; });
    RETOUCH_BINARY(RETOUCH_TWO)
    RETOUCH_UNARY(RETOUCH_ONE)
#undef RETOUCH_ONE
#undef RETOUCH_TWO
  case Op::affine:
    return map_tile<3>(tile, s, d, [](vf a, vf b, vf c) { return fma(a, b, c); });
  case Op::affine_silu:
    return map_tile<3>(tile, s, d, [](vf a, vf b, vf c) { return silu_of(fma(a, b, c)); });
  case Op::add_add:
    return map_tile<3>(tile, s, d, [](vf a, vf b, vf c) { return (a + b) + c; });
  case Op::copy:
    return map_tile<1>(tile, s, d, [](vf x) { return x; });
  default:
    return whole_row(tile, step, s[0], d);
  }
}

// An out of one channel takes the first of a wider result.
void store_first_channel(const Tile& tile, const Target& out, const float* result) {
  for (int64_t r = 0; r < tile.span.rows; ++r)
    write<false>(row_of<char>(out, r, nullptr), out.half, 0, 1, set1(result[r * tile.ld]));
}

} // namespace

int64_t tile_scratch(const Code& code, int64_t rows, int64_t columns) {
  return int64_t(code.slots + code.temps + 1) * rows * round_up(columns, lanes);
}

void run_tile(const ProgramArgs& args, const TileSpan& span, const float* acc, int64_t acc_ld,
              float* scratch) {
  Tile tile{args, span, acc, acc_ld, scratch, round_up(span.columns, lanes)};
  const Code& code = args.code;
  float* result = tile.slot(code.slots + code.temps);
  const int64_t item = args.out.dtype == DType::bf16 ? 2 : 4;
  const Target out{args.out.data + span.column * item, args.out.ld * item, span.row, args.out_index,
                   item == 2};
  const bool direct = args.out.channels == args.width;
  for (int i = 0; i < code.count; ++i) {
    const Step& step = code.steps[i];
    View src[3];
    for (int k = 0; k < 3 && step.src[k].kind != Source::none; ++k)
      src[k] = operand(tile, step.src[k]);
    float* slot = step.dst >= 0 ? tile.slot(step.dst) : result;
    Target dst{reinterpret_cast<char*>(slot), tile.ld * 4, 0, nullptr, false};
    run_step(tile, step, src, step.dst < 0 && direct ? out : dst);
  }
  if (!direct && span.column == 0) store_first_channel(tile, out, result);
}

} // namespace retouch::RETOUCH_NS
