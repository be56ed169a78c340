#ifndef RETOUCH_BIND
#include "gemm_tile.h"
#include "ops.h"
#include "panels.h"
#include "parallel.h"
#include "program.h"
#include "runtime.h"

// Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308), section
// 4.1, F(2x2, 3x3): four outputs of a tile are A^T [(G g G^T) * (B^T d B)] A of 4x4 inputs d and
// weights g, 16 products for each channel where the sum over taps has 36.
namespace retouch::RETOUCH_NS {

namespace {

constexpr int inputs = 16;              // of a tile
constexpr int outputs = 4;              // of a tile
constexpr int gap = 3 * lanes;          // between planes, so that they do not share lines of caches
constexpr int64_t ready_channels = 128; // of which weights are made ready at a time
constexpr int64_t ready_bytes = 4 << 20; // of inputs that are ready, of a chunk
constexpr int64_t most_rows = 12;        // of a tile of the program

// B^T d for four numbers, and so for rows and columns of d.
RETOUCH_INLINE void spread_inputs(vf& a, vf& b, vf& c, vf& d) {
  vf first = a - c, second = b + c, third = c - b, fourth = b - d;
  a = first, b = second, c = third, d = fourth;
}

// G g for three numbers.
RETOUCH_INLINE void spread_weights(vf a, vf b, vf c, vf (&out)[4]) {
  vf even = (a + c) * 0.5f, odd = b * 0.5f;
  out[0] = a, out[1] = even + odd, out[2] = even - odd, out[3] = c;
}

// A number of a word of packed weights: the only one, or the first or second of a pair.
RETOUCH_INLINE vf number(const float* words, int64_t) {
  return load(words);
}

RETOUCH_INLINE vf number(const bf16* words, int64_t i) {
  vu pair;
  memcpy(&pair, words, sizeof(pair));
  return from_bits(i ? pair & 0xffff0000u : pair << 16);
}

// Of rows and weights of T, multiplied in float32. Tiles of several outputs are transformed. For an
// output that is alone, the sum over taps is less work; it is that of the product by itself,
// stretch by stretch.
template <class T>
class Winograd {
 public:
  explicit Winograd(const WinogradArgs& args)
      : g(args.product), w(g.weights), tiles(args.tiles.data), shared(args.shared),
        alone(args.tiles.count - shared), channels(w.channels), depth(round_up(channels, lanes)),
        panel(w), stretch(w) {
    parts = ceil_div(channels, ready_channels);
    part = round_up(ceil_div(channels, parts), 8);
    zeros = static_cast<const char*>(zero_row(size_t(channels * 4)));
  }

  void run(int threads) const {
    Split s = split(threads);
    int64_t height = block_rows(max_vectors), wanted = ceil_div(2 * threads, panel.count);
    int64_t pieces = max_of(ceil_div(alone, 256), min_of(wanted, ceil_div(alone, height)));
    bool first = tile_cost(s) * double(pieces) > alone_cost();
    int64_t tasks = s.chunks * s.groups, others = pieces * panel.count;
    parallel(threads, tasks + others, [&](int64_t task) {
      if (first ? task < tasks : task >= others) {
        int64_t i = first ? task : task - others, chunk = i / s.groups, group = i % s.groups;
        compute(chunk * shared / s.chunks, (chunk + 1) * shared / s.chunks,
                group * panel.count / s.groups, (group + 1) * panel.count / s.groups);
      } else {
        int64_t i = first ? task - tasks : task, piece = i / panel.count;
        compute_alone(piece * alone / pieces, (piece + 1) * alone / pieces, panel[i % panel.count]);
      }
    });
  }

 private:
  static constexpr int64_t per_word = 4 / sizeof(T);

  // Tasks of tiles: chunks of them times groups of panels.
  struct Split {
    int64_t chunks, groups;
  };

  Split split(int threads) const {
    if (!shared) return {0, 1};
    int64_t most = max_of(24, min_of(256, ready_bytes / (inputs * depth * 4)));
    Split best{ceil_div(shared, most), 1};
    double least = cost(best, threads);
    int64_t fewest = best.chunks, last = min_of(shared, fewest + 2 * threads);
    for (int64_t chunks = fewest; chunks <= last; ++chunks)
      for (int64_t groups = 1; groups <= min_of(panel.count, ceil_div(4 * threads, chunks));
           ++groups) {
        double found = cost({chunks, groups}, threads);
        if (found < 0.98 * least) best = {chunks, groups}, least = found;
      }
    return best;
  }

  // Multiply-adds of vectors for each channel: what it takes to transform weights and inputs is
  // counted as some more.
  double tile_cost(const Split& s) const {
    if (!s.chunks) return 0;
    double count = double(ceil_div(shared, s.chunks));
    double columns = double(ceil_div(panel.count, s.groups) * max_vectors);
    return columns * (inputs * count + 45) + 5 * count;
  }

  double alone_cost() const { return double(max_vectors * w.taps * alone); }

  // Of the busiest thread; rows that are alone fill gaps.
  double cost(const Split& s, int threads) const {
    double each = tile_cost(s), count = double(s.chunks * s.groups);
    double all = (each * count + alone_cost() * double(panel.count)) / threads;
    double rounds = each * double(ceil_div(s.chunks * s.groups, threads));
    return all > rounds ? all : rounds;
  }

  int64_t line_bytes() const { return g.a.ld * int64_t(sizeof(T)); }

  // Of so many channels of a tap of packed weights.
  static int64_t weight_bytes(const Panel& p, int64_t channels) {
    return ceil_div(channels, per_word) * p.vectors * lanes * 4;
  }

  // Some tiles.
  struct Chunk {
    int64_t count, first, span; // tiles, and their outputs from the first to the last
    const int32_t* rows;        // [count][4]: outputs
    int32_t* sources;           // [count][16]: inputs
    char* listed;               // [span]: which outputs are of the chunk
    float *in, *weight, *sum, *out, *program;
    int64_t in_plane, weight_plane, sum_plane;
  };

  void compute(int64_t from, int64_t to, int64_t panels_from, int64_t panels_to) const {
    Chunk c = chunk(from, to);
    for (int64_t t = 0; t < c.count; ++t) read(c, t);
    for (int64_t i = panels_from; i < panels_to; ++i) {
      Panel p = panel[i];
      for (int64_t n = 0; n < parts; ++n) {
        bool last = n + 1 == parts;
        if (last && i + 1 == panels_to)
          multiply(c, p, n, {});
        else
          multiply(c, p, n, ahead(c, last ? panel[i + 1] : p, last ? 0 : n + 1));
      }
      for (int64_t t = 0; t < c.count; ++t) write(c, p, t);
      for (int64_t r = 0, n; r < c.span; r += max_of(1, n)) {
        for (n = 0; n < most_rows && r + n < c.span && c.listed[r + n];) ++n;
        if (n) finish(p, c.first + r, n, place(c, p, c.first + r), c.program);
      }
    }
  }

  void finish(const Panel& p, int64_t row, int64_t rows, float* sums, float* scratch) const {
    run_tile(g.program, {row, rows, p.column, p.columns}, sums, p.vectors * lanes, scratch);
  }

  int64_t program_scratch() const {
    return round_up(tile_scratch(g.program.code, most_rows, max_vectors * lanes), lanes);
  }

  Chunk chunk(int64_t from, int64_t to) const {
    Chunk c{};
    c.count = to - from;
    c.rows = tiles + from * outputs;
    int64_t last = -1;
    c.first = g.m;
    for (int64_t i = 0; i < c.count * outputs; ++i)
      if (c.rows[i] >= 0) c.first = min_of(c.first, c.rows[i]), last = max_of(last, c.rows[i]);
    c.span = last - c.first + 1;
    reserve(c);
    memset(c.listed, 0, size_t(c.span));
    for (int64_t i = 0; i < c.count * inputs; ++i) c.sources[i] = -1;
    for (int64_t i = 0; i < c.count * outputs; ++i) {
      int64_t row = c.rows[i];
      if (row < 0) continue;
      c.listed[row - c.first] = 1;
      int32_t* corner = c.sources + i / outputs * inputs + i % outputs / 2 * 4 + i % 2;
      for (int tap = 0; tap < 9; ++tap) corner[tap / 3 * 4 + tap % 3] = g.index[row * 9 + tap];
    }
    return c;
  }

  void reserve(Chunk& c) const {
    int64_t width = max_vectors * lanes;
    c.in_plane = c.count * depth + gap;
    c.weight_plane = part * width + gap;
    c.sum_plane = c.count * width + gap;
    int64_t floats[] = {inputs * c.in_plane, inputs * c.weight_plane, inputs * c.sum_plane,
                        c.span * width, program_scratch()};
    float** buffers[] = {&c.in, &c.weight, &c.sum, &c.out, &c.program};
    int64_t total = 0;
    for (int64_t n : floats) total += n;
    size_t bytes = size_t(total + c.count * inputs) * 4 + size_t(c.span);
    float* memory = static_cast<float*>(thread_scratch(bytes));
    for (int i = 0; i < 5; memory += floats[i++]) *buffers[i] = memory;
    c.sources = reinterpret_cast<int32_t*>(memory);
    c.listed = reinterpret_cast<char*>(c.sources + c.count * inputs);
  }

  // B^T d B of all channels of a tile.
  void read(const Chunk& c, int64_t t) const {
    const T* row[inputs];
    for (int i = 0; i < inputs; ++i) {
      int64_t source = c.sources[t * inputs + i];
      row[i] = reinterpret_cast<const T*>(source < 0 ? zeros : g.a.data + source * line_bytes());
    }
    float* out = c.in + t * depth;
    for (int64_t k = 0; k < channels; k += lanes) {
      vf d[inputs];
#pragma GCC unroll 16
      for (int i = 0; i < inputs; ++i)
        d[i] = k + lanes <= channels ? load(row[i] + k) : load_part(row[i] + k, channels - k);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) spread_inputs(d[i], d[4 + i], d[8 + i], d[12 + i]);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) spread_inputs(d[4 * i], d[4 * i + 1], d[4 * i + 2], d[4 * i + 3]);
#pragma GCC unroll 16
      for (int i = 0; i < inputs; ++i) store(out + i * c.in_plane + k, d[i]);
    }
  }

  // G g G^T of some channels of a panel's weights.
  void read_weights(const Chunk& c, const Panel& p, int64_t channel, int64_t count) const {
    const int64_t width = p.vectors * lanes, tap = weight_bytes(p, channels);
    const char* from = w.data + p.offset + weight_bytes(p, channel);
    for (int64_t x = 0; x < ceil_div(count, per_word) * width; x += lanes)
      for (int64_t n = 0; n < per_word; ++n) {
        auto taken = [&](int i) {
          return number(reinterpret_cast<const T*>(from + i * tap + x * 4), n);
        };
        vf wide[3][4];
#pragma GCC unroll 3
        for (int i = 0; i < 3; ++i) spread_weights(taken(i), taken(3 + i), taken(6 + i), wide[i]);
        float* to = c.weight + x + ((per_word - 1) * (x / width) + n) * width;
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          vf row[4];
          spread_weights(wide[0][i], wide[1][i], wide[2][i], row);
#pragma GCC unroll 4
          for (int j = 0; j < 4; ++j) store(to + (4 * i + j) * c.weight_plane, row[j]);
        }
      }
  }

  // Weights that are made ready next: lines of them are fetched while others are multiplied.
  struct Ahead {
    const char* from = nullptr;                 // of the first tap; nullptr: none
    int64_t tap_bytes = 0, taps = 0, bytes = 0; // from tap to tap, and of each
    int lines = 0;                              // for each channel that is multiplied
    int64_t tap = 0, done = 0;                  // where it is, and bytes of that tap

    int fetch(BlockArgs& block) {
      if (!from || tap == taps) return 0;
      block.prefetch = from + tap * tap_bytes + done;
      done += lines * block.channels * 64;
      if (done >= bytes) ++tap, done = 0;
      return lines;
    }
  };

  Ahead ahead(const Chunk& c, const Panel& p, int64_t n) const {
    int64_t blocks = ceil_div(c.count, block_rows(max_vectors)), channel = n * part;
    int lines = blocks > 8 ? 0 : blocks > 2 ? 1 : blocks > 1 ? 2 : 4;
    const char* from = lines ? w.data + p.offset + weight_bytes(p, channel) : nullptr;
    int64_t bytes = weight_bytes(p, min_of(part, channels - channel));
    return {from, weight_bytes(p, channels), w.taps, bytes, lines};
  }

  void multiply(const Chunk& c, const Panel& p, int64_t n, Ahead next) const {
    int64_t channel = n * part, count = min_of(part, channels - channel);
    read_weights(c, p, channel, count);
    BlockArgs block{};
    block.ld_bytes = depth * 4;
    block.taps = 1;
    block.channels = count;
    block.add = n > 0;
    for (int i = 0; i < inputs; ++i) {
      block.a = reinterpret_cast<const char*>(c.in + i * c.in_plane + channel);
      block.b = reinterpret_cast<const char*>(c.weight + i * c.weight_plane);
      blocks(DType::f32, block, p, c.count, c.sum + i * c.sum_plane, next);
    }
  }

  // All rows of a product, as many at a time as a block takes.
  void blocks(DType dtype, BlockArgs& block, const Panel& p, int64_t rows, float* sums,
              Ahead& next) const {
    const int32_t* index = block.index;
    each_block(rows, p.vectors, [&](int64_t r, int64_t n) {
      block.row = r;
      block.index = index ? index + r * block.index_stride : nullptr;
      block.c = sums + r * p.vectors * lanes;
      block_kernel(dtype, p.vectors, n, next.fetch(block))(block);
    });
    block.index = index;
  }

  // A^T m A of a tile.
  void write(const Chunk& c, const Panel& p, int64_t t) const {
    const int64_t width = p.vectors * lanes;
    const int32_t* rows = c.rows + t * outputs;
    const float* sums = c.sum + t * width;
    for (int64_t x = 0; x < width; x += lanes) {
      vf wide[2][4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        vf a = load(sums + i * c.sum_plane + x), b = load(sums + (4 + i) * c.sum_plane + x);
        vf d = load(sums + (8 + i) * c.sum_plane + x), e = load(sums + (12 + i) * c.sum_plane + x);
        wide[0][i] = a + b + d, wide[1][i] = b - d - e;
      }
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        const vf(&m)[4] = wide[i];
        if (rows[2 * i] >= 0) store(place(c, p, rows[2 * i]) + x, m[0] + m[1] + m[2]);
        if (rows[2 * i + 1] >= 0) store(place(c, p, rows[2 * i + 1]) + x, m[1] - m[2] - m[3]);
      }
    }
  }

  float* place(const Chunk& c, const Panel& p, int64_t row) const {
    return c.out + (row - c.first) * p.vectors * lanes;
  }

  void compute_alone(int64_t from, int64_t to, const Panel& p) const {
    const int64_t width = p.vectors * lanes, step = width * 4, count = to - from;
    const int32_t* tile = tiles + (shared + from) * outputs;
    int64_t floats = count * width + program_scratch();
    float* sums = static_cast<float*>(thread_scratch(size_t(floats + count * (1 + w.taps)) * 4));
    float* program = sums + count * width;
    int32_t *rows = reinterpret_cast<int32_t*>(sums + floats), *taps = rows + count;
    for (int64_t i = 0; i < count; ++i) {
      for (int j = 0; j < outputs; ++j)
        if (tile[i * outputs + j] >= 0) rows[i] = tile[i * outputs + j];
      memcpy(taps + i * w.taps, g.index + rows[i] * w.taps, size_t(w.taps) * 4);
    }
    BlockArgs block{};
    block.ld_bytes = line_bytes();
    block.index_stride = w.taps;
    block.zeros = zeros;
    Ahead none;
    for (int64_t i = 0; i < stretch.count; ++i) {
      Stretch s = stretch[i];
      block.a = g.a.data + s.channel * int64_t(sizeof(T));
      block.index = taps + s.tap;
      block.taps = s.taps;
      block.channels = s.channels;
      block.b = w.data + p.offset + s.skipped * step;
      block.add = i > 0;
      blocks(w.dtype, block, p, count, sums, none);
    }
    for (int64_t i = 0, n; i < count; i += n) {
      for (n = 1; n < most_rows && i + n < count && rows[i + n] == rows[i] + n;) ++n;
      finish(p, rows[i], n, sums + i * width, program);
    }
  }

  const GemmArgs& g;
  const PackedWeights& w;
  const int32_t* tiles;
  int64_t shared, alone, channels, depth;
  Panels panel;
  Stretches stretch;
  int64_t parts, part;
  const char* zeros;
};

} // namespace

void winograd(const WinogradArgs& args, int threads) {
  if (!args.shared)
    gemm(args.product, threads);
  else if (args.product.weights.dtype == DType::bf16)
    Winograd<bf16>(args).run(threads);
  else
    Winograd<float>(args).run(threads);
}

} // namespace retouch::RETOUCH_NS

#else
#include "calls.h"

namespace retouch {

using namespace nb::literals;

namespace {

// Every row is in one tile, and tiles of several rows come first. How many these are.
int64_t check_tiles(const Index& tiles, int64_t m) {
  check_same(tiles.table.taps, 4, "outputs of a tile");
  if (tiles.max >= m)
    bad_value("tiles: entry " + str(tiles.max) + " is not below " + str(m) + " rows");
  std::vector<bool> listed(size_t(m), false);
  int64_t count = 0, shared = 0;
  for (int64_t t = 0; t < tiles.table.count; ++t) {
    int64_t before = count;
    for (int64_t i = t * 4; i < t * 4 + 4; ++i) {
      int32_t row = tiles.table.data[i];
      if (row < 0) continue;
      if (listed[size_t(row)]) bad_value("tiles: row " + str(row) + " is in two places");
      listed[size_t(row)] = true, ++count;
    }
    if (count == before) bad_value("tiles: tile " + str(t) + " is empty");
    if (count > before + 1 && shared++ != t)
      bad_value("tiles: tile " + str(t) + " of several rows comes after one of a single row");
  }
  check_same(count, m, "rows in tiles");
  return shared;
}

void call_winograd(const Rows& out, const Index* out_index, const Rows& a, const Index& index,
                   const Packed& packed, const Program* program, const RowList& rows,
                   const VectorList& vectors, const Index* sample, const Index& tiles) {
  const PackedWeights& w = packed.weights;
  ProgramCall call(out, out_index, program, rows, vectors, sample, true);
  int64_t m = count_rows(out, out_index);
  check_packed(w, out.m.channels);
  check_same(a.m.channels, w.channels, "channels of a");
  check_same(w.taps, 9, "taps");
  check_same(w.groups, 1, "groups");
  if (a.m.dtype != w.dtype || (w.dtype != DType::f32 && w.dtype != DType::bf16))
    bad_type("winograd takes rows and weights of float32 or of bfloat16, not " +
             dtype_name(a.m.dtype) + " and " + dtype_name(w.dtype));
  WinogradArgs args{{m, a.m, check_gather(a, &index, m, w.taps, "index"), w, call.args},
                    tiles.table,
                    check_tiles(tiles, m)};
  launch(kernels().winograd, args);
}

} // namespace

void bind_winograd(nb::module_& m) {
  bind(m, "winograd", call_winograd, "out"_a, "out_index"_a.none(), "a"_a, "index"_a, "packed"_a,
       "program"_a.none(), "rows"_a, "vectors"_a, "sample"_a.none(), "tiles"_a);
}

} // namespace retouch

#endif
