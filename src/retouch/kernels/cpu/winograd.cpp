#ifndef RETOUCH_BIND
#include "gemm_tile.h"
#include "ops.h"
#include "pack.h"
#include "panels.h"
#include "parallel.h"
#include "program.h"
#include "runtime.h"

// Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308), section
// 4.1, F(2x2, 3x3): four outputs of a tile are A^T [(G g G^T) * (B^T d B)] A of 4x4 inputs d and
// weights g, 16 products for each channel where the sum over taps has 36.
namespace retouch::RETOUCH_NS {

namespace {

constexpr int inputs = 16; // of a tile
constexpr int outputs = 4; // of a tile
constexpr int gap =
    3 * lanes; // between planes, so that they do not fall on the same lines of caches
constexpr int64_t stretch_words = 128;
constexpr int64_t kept_bytes = 4 << 20; // of the inputs of a chunk

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

// Tiles of several outputs are transformed; for one that is alone in its tile the sum over taps is
// less work.
class Winograd {
 public:
  explicit Winograd(const WinogradArgs& args)
      : g(args.product), w(g.weights), words(w.channels), depth(round_up(words, lanes)),
        panel(w, words) {
    parts = ceil_div(words, stretch_words);
    part_words = round_up(ceil_div(words, parts), 8);
    zeros = static_cast<const char*>(zero_row(size_t(words * 4)));
    sort(args.tiles);
  }

  void run(int threads) const {
    int64_t most = max_of(24, min_of(256, kept_bytes / (inputs * depth * 4)));
    int64_t fewest = ceil_div(tile_count, most), chunks = fewest, groups = 1;
    for (int64_t c = fewest; c <= min_of(tile_count, fewest + 2 * threads); ++c)
      for (int64_t p = 1; p <= panel.count; ++p)
        if (cost(c, p, threads) < 0.98 * cost(chunks, groups, threads)) chunks = c, groups = p;
    int64_t height = block_rows(max_vectors), wanted = ceil_div(2 * threads, panel.count);
    int64_t pieces =
        max_of(ceil_div(single_count, most), min_of(wanted, ceil_div(single_count, height)));
    bool first = tile_cost(chunks, groups) * double(pieces) > single_cost();
    int64_t large = first ? chunks * groups : pieces * panel.count;
    parallel(threads, chunks * groups + pieces * panel.count, [&](int64_t task) {
      int64_t i = task < large ? task : task - large;
      if ((task < large) == first) {
        int64_t chunk = i / groups, group = i % groups;
        compute(chunk * tile_count / chunks, (chunk + 1) * tile_count / chunks,
                group * panel.count / groups, (group + 1) * panel.count / groups);
      } else {
        int64_t piece = i / panel.count;
        compute_singles(piece * single_count / pieces, (piece + 1) * single_count / pieces,
                        panel[i % panel.count]);
      }
    });
  }

 private:
  void sort(const IndexTable& all) {
    tiles = static_cast<int32_t*>(call_scratch(size_t(all.count * (outputs + 1)) * 4));
    singles = tiles + all.count * outputs;
    for (const int32_t* tile = all.data; tile < all.data + all.count * outputs; tile += outputs) {
      int there = 0;
      for (int i = 0; i < outputs; ++i) there += tile[i] >= 0;
      if (there > 1) memcpy(tiles + tile_count++ * outputs, tile, outputs * sizeof(int32_t));
      for (int i = 0; there == 1 && i < outputs; ++i)
        if (tile[i] >= 0) singles[single_count++] = tile[i];
    }
  }

  // Multiply-adds of vectors for each channel: what it takes to transform weights and inputs is
  // counted as some more.
  double tile_cost(int64_t chunks, int64_t groups) const {
    if (!chunks) return 0;
    double count = double(ceil_div(tile_count, chunks));
    double columns = double(ceil_div(panel.count, groups) * max_vectors);
    return columns * (inputs * count + 45) + 5 * count;
  }

  double single_cost() const { return double(max_vectors * w.taps * single_count); }

  // Of the busiest thread; tasks of singles fill gaps.
  double cost(int64_t chunks, int64_t groups, int threads) const {
    double each = tile_cost(chunks, groups), count = double(chunks * groups);
    double all = (each * count + single_cost() * double(panel.count)) / threads;
    double rounds = each * double(ceil_div(chunks * groups, threads));
    return all > rounds ? all : rounds;
  }

  // Some tiles.
  struct Chunk {
    int64_t count, first, span; // tiles, and the rows from first to last
    const int32_t* rows;        // [count][4]
    int32_t* lines;             // [count][16]
    char* there;                // [span]: rows of the chunk
    float *in, *weight, *sum, *out, *program;
    int64_t in_plane, weight_plane, sum_plane;
  };

  void compute(int64_t from, int64_t to, int64_t panels_from, int64_t panels_to) const {
    Chunk c = chunk(from, to);
    for (int64_t t = 0; t < c.count; ++t) read(c, t);
    for (int64_t i = panels_from; i < panels_to; ++i) {
      Panel p = panel[i];
      const char* after = i + 1 < panels_to ? w.data + panel[i + 1].offset : nullptr;
      for (int64_t part = 0; part < parts; ++part) multiply(c, p, part, after);
      for (int64_t t = 0; t < c.count; ++t) write(c, p, t);
      for (int64_t r = 0, n; r < c.span; r += max_of(1, n)) {
        for (n = 0; n < 12 && r + n < c.span && c.there[r + n];) ++n;
        if (n) finish(p, c.first + r, n, place(c, p, c.first + r), c.program);
      }
    }
  }

  void finish(const Panel& p, int64_t row, int64_t rows, float* sums, float* scratch) const {
    run_tile(g.program, {row, rows, p.column, p.columns}, sums, p.vectors * lanes, scratch);
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
    memset(c.there, 0, size_t(c.span));
    for (int64_t i = 0; i < c.count * inputs; ++i) c.lines[i] = -1;
    for (int64_t i = 0; i < c.count * outputs; ++i) {
      int32_t row = c.rows[i];
      if (row < 0) continue;
      c.there[row - c.first] = 1;
      int32_t* lines = c.lines + i / outputs * inputs + i % outputs / 2 * 4 + i % 2;
      for (int tap = 0; tap < 9; ++tap) lines[tap / 3 * 4 + tap % 3] = g.index[row * 9 + tap];
    }
    return c;
  }

  void reserve(Chunk& c) const {
    int64_t width = max_vectors * lanes;
    c.in_plane = c.count * depth + gap;
    c.weight_plane = part_words * width + gap;
    c.sum_plane = c.count * width + gap;
    int64_t floats[] = {inputs * c.in_plane, inputs * c.weight_plane, inputs * c.sum_plane,
                        c.span * width, tile_scratch(g.program.code, 12, width)};
    float** parts[] = {&c.in, &c.weight, &c.sum, &c.out, &c.program};
    int64_t total = 0;
    for (int64_t n : floats) total += round_up(n, lanes);
    size_t bytes = size_t(total + c.count * inputs) * 4 + size_t(c.span);
    float* memory = static_cast<float*>(thread_scratch(bytes));
    for (int i = 0; i < 5; memory += round_up(floats[i++], lanes)) *parts[i] = memory;
    c.lines = reinterpret_cast<int32_t*>(memory);
    c.there = reinterpret_cast<char*>(c.lines + c.count * inputs);
  }

  // B^T d B of all channels of a tile.
  void read(const Chunk& c, int64_t t) const {
    const float* line[inputs];
    for (int i = 0; i < inputs; ++i) {
      int64_t row = c.lines[t * inputs + i];
      line[i] = reinterpret_cast<const float*>(row < 0 ? zeros : g.a.data + row * g.a.ld * 4);
    }
    float* out = c.in + t * depth;
    for (int64_t k = 0; k < words; k += lanes) {
      vf d[inputs];
#pragma GCC unroll 16
      for (int i = 0; i < inputs; ++i)
        d[i] = k + lanes <= words ? load(line[i] + k) : load_part(line[i] + k, words - k);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) spread_inputs(d[i], d[4 + i], d[8 + i], d[12 + i]);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) spread_inputs(d[4 * i], d[4 * i + 1], d[4 * i + 2], d[4 * i + 3]);
#pragma GCC unroll 16
      for (int i = 0; i < inputs; ++i) store(out + i * c.in_plane + k, d[i]);
    }
  }

  // G g G^T of some channels of a panel's weights.
  void read_weights(const Chunk& c, const Panel& p, int64_t word, int64_t count) const {
    const int64_t width = p.vectors * lanes;
    const float* from = reinterpret_cast<const float*>(w.data + p.offset) + word * width;
    for (int64_t x = 0; x < count * width; x += lanes) {
      vf wide[3][4];
#pragma GCC unroll 3
      for (int i = 0; i < 3; ++i)
        spread_weights(load(from + i * words * width + x), load(from + (3 + i) * words * width + x),
                       load(from + (6 + i) * words * width + x), wide[i]);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        vf row[4];
        spread_weights(wide[0][i], wide[1][i], wide[2][i], row);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) store(c.weight + (4 * i + j) * c.weight_plane + x, row[j]);
      }
    }
  }

  // Weights that are multiplied next: lines of them are fetched while others are multiplied.
  struct Ahead {
    const char* from;                     // the first tap
    int64_t tap_bytes, taps, calls, done; // calls that it takes for a tap, and those that were
    int lines;

    int fetch(BlockArgs& block) {
      if (!from || done >= calls * taps) return 0;
      int64_t tap = done / calls, part = done % calls;
      block.prefetch = from + tap * tap_bytes + part * lines * block.channels * 64;
      ++done;
      return lines;
    }
  };

  Ahead ahead(const Chunk& c, const Panel& p, const char* next) const {
    int64_t count = ceil_div(c.count, block_rows(int(p.vectors)));
    int lines = count > 8 ? 0 : count > 2 ? 1 : count > 1 ? 2 : 4;
    return {lines ? next : nullptr,
            words * p.vectors * lanes * 4,
            w.taps,
            lines ? ceil_div(p.vectors, lines) : 1,
            0,
            lines};
  }

  // `after`: the weights of the next panel.
  void multiply(const Chunk& c, const Panel& p, int64_t part, const char* after) const {
    int64_t word = part * part_words, count = min_of(part_words, words - word);
    int64_t step = p.vectors * lanes * 4;
    read_weights(c, p, word, count);
    BlockArgs block{};
    block.ld_bytes = depth * 4;
    block.taps = 1;
    block.channels = count;
    block.add = part > 0;
    Ahead next = ahead(c, p, part + 1 < parts ? w.data + p.offset + (word + count) * step : after);
    for (int i = 0; i < inputs; ++i) {
      block.a = reinterpret_cast<const char*>(c.in + i * c.in_plane + word);
      block.b = reinterpret_cast<const char*>(c.weight + i * c.weight_plane);
      blocks(block, p, c.count, c.sum + i * c.sum_plane, next);
    }
  }

  // All rows of a product, as many at a time as a block takes.
  void blocks(BlockArgs& block, const Panel& p, int64_t rows, float* sums, Ahead& next) const {
    const int32_t* index = block.index;
    int64_t count = ceil_div(rows, block_rows(int(p.vectors)));
    for (int64_t i = 0, r = 0; i < count; ++i) {
      int64_t n = (rows - r + count - i - 1) / (count - i);
      block.row = r;
      block.index = index ? index + r * block.index_stride : nullptr;
      block.c = sums + r * p.vectors * lanes;
      block_kernel(DType::f32, p.vectors, n, next.fetch(block))(block);
      r += n;
    }
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

  void compute_singles(int64_t from, int64_t to, const Panel& p) const {
    const int64_t width = p.vectors * lanes, count = to - from;
    const int32_t* rows = singles + from;
    int64_t scratch = tile_scratch(g.program.code, 12, max_vectors * lanes);
    float* sums = static_cast<float*>(
        thread_scratch(size_t(count * (width + w.taps) + round_up(scratch, lanes)) * 4));
    float* program = sums + count * width;
    int32_t* lines = reinterpret_cast<int32_t*>(program + round_up(scratch, lanes));
    for (int64_t s = 0; s < count; ++s)
      memcpy(lines + s * w.taps, g.index + rows[s] * w.taps, size_t(w.taps) * 4);
    BlockArgs block{};
    block.ld_bytes = g.a.ld * 4;
    block.a = g.a.data;
    block.index_stride = w.taps;
    block.zeros = zeros;
    block.taps = 1;
    block.channels = words;
    Ahead none{};
    for (int64_t tap = 0; tap < w.taps; ++tap) {
      block.index = lines + tap;
      block.add = tap > 0;
      block.b = w.data + p.offset + tap * words * width * 4;
      blocks(block, p, count, sums, none);
    }
    for (int64_t s = 0, n; s < count; s += n) {
      for (n = 1; n < 12 && s + n < count && rows[s + n] == rows[s] + n;) ++n;
      finish(p, rows[s], n, sums + s * width, program);
    }
  }

  const GemmArgs& g;
  const PackedWeights& w;
  int64_t words, depth;
  Panels panel;
  int64_t parts, part_words;
  const char* zeros;
  int32_t *tiles, *singles; // [tile_count][4], rows
  int64_t tile_count = 0, single_count = 0;
};

} // namespace

void winograd(const WinogradArgs& args, int threads) {
  Winograd(args).run(threads);
}

} // namespace retouch::RETOUCH_NS

#else
#include "calls.h"

namespace retouch {

using namespace nb::literals;

namespace {

// Every row once.
void check_tiles(const Index& tiles, int64_t m) {
  check_same(tiles.table.taps, 4, "outputs of a tile");
  if (tiles.max >= m)
    bad_value("tiles: entry " + str(tiles.max) + " is not below " + str(m) + " rows");
  std::vector<bool> there(size_t(m), false);
  int64_t count = 0;
  for (int64_t i = 0; i < tiles.table.count * 4; ++i) {
    int32_t row = tiles.table.data[i];
    if (row < 0) continue;
    if (there[size_t(row)]) bad_value("tiles: row " + str(row) + " is in two places");
    there[size_t(row)] = true, ++count;
  }
  check_same(count, m, "rows in tiles");
}

void call_winograd(const Rows& out, const Index* out_index, const Rows& a, const Index& index,
                   const Packed& packed, const Program* program, const RowList& rows,
                   const VectorList& vectors, const Index* sample, const Index& tiles) {
  const PackedWeights& w = packed.weights;
  ProgramCall call(out, out_index, program, rows, vectors, sample, true);
  int64_t m = count_rows(out, out_index);
  check_same(out.m.channels, w.outputs, "channels of out");
  check_same(a.m.channels, w.channels, "channels of a");
  check_same(w.taps, 9, "taps");
  check_same(w.groups, 1, "groups");
  if (a.m.dtype != DType::f32 || w.dtype != DType::f32)
    bad_type("winograd takes rows and weights of float32, not " + dtype_name(a.m.dtype) + " and " +
             dtype_name(w.dtype));
  if (w.lanes != kernels().lanes || w.max_vectors != kernels().max_vectors)
    bad_value("the weights were packed for another instruction set: pack them again");
  check_tiles(tiles, m);
  WinogradArgs args{{m, a.m, check_gather(a, &index, m, w.taps, "index"), w, call.args},
                    tiles.table};
  launch(kernels().winograd, args);
}

} // namespace

void bind_winograd(nb::module_& m) {
  bind(m, "winograd", call_winograd, "out"_a, "out_index"_a.none(), "a"_a, "index"_a, "packed"_a,
       "program"_a.none(), "rows"_a, "vectors"_a, "sample"_a.none(), "tiles"_a);
}

} // namespace retouch

#endif
