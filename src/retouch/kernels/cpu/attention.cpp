// Attention with an online softmax, transposed: a lane is a query.
//
//   S^T = K Q^T (keys x queries), P^T = exp(scale * S^T - max), O^T += V^T P^T
//
// Maxima and sums over keys are then plain vector operations, K and V are read where they lie, and
// only the few queries of a panel are packed. bf16 inputs use exact products with float32 sums; the
// weights P are rounded to bf16 for the second product.
#include "gemm_tile.h"
#include "ops.h"
#include "parallel.h"
#include "vecmath.h"

namespace retouch::RETOUCH_NS {

namespace {

constexpr int64_t key_block = 128; // even: bf16 keys are taken in pairs

// O[j, lane] = O[j, lane] * decay[lane] + sum over steps of V[step, j] * P[step, lane]
struct ValueArgs {
  const char* v; // at column j of the first key (or pair of keys)
  int64_t ld_bytes, steps;
  const char* p;
  float* o;
  const float* decay; // nullptr: O starts here
};

using ValueBlock = void (*)(const ValueArgs&);

template <bool Bf16, int NV, int MR>
__attribute__((noinline)) void value_block(const ValueArgs& g) {
  vf acc[MR][NV] = {};
  const char *v = g.v, *p = g.p;
  for (int64_t k = 0; k < g.steps; ++k) {
    vf pv[NV];
#pragma GCC unroll 4
    for (int i = 0; i < NV; ++i) pv[i] = load(reinterpret_cast<const float*>(p) + i * lanes);
#pragma GCC unroll 12
    for (int m = 0; m < MR; ++m) {
      uint32_t word;
      memcpy(&word, v + m * 4, 4);
      vf a = from_bits(vu{} + word);
#pragma GCC unroll 4
      for (int i = 0; i < NV; ++i) {
        if constexpr (Bf16)
          acc[m][i] = dot_pairs(acc[m][i], bits(a), bits(pv[i]));
        else
          acc[m][i] = fma(a, pv[i], acc[m][i]);
      }
    }
    v += g.ld_bytes;
    p += NV * lanes * 4;
  }
  for (int m = 0; m < MR; ++m)
    for (int i = 0; i < NV; ++i) {
      float* o = g.o + (m * NV + i) * lanes;
      store(o, g.decay ? fma(load(o), load(g.decay + i * lanes), acc[m][i]) : acc[m][i]);
    }
}

template <bool Bf16, int NV, int MR>
constexpr ValueBlock pick_value(int rows) {
  if constexpr (NV > max_vectors || MR < 1 || MR > block_rows(NV))
    return nullptr;
  else
    return rows == MR ? value_block<Bf16, NV, MR> : pick_value<Bf16, NV, MR - 1>(rows);
}

struct ValueTable {
  ValueBlock entry[2][4][12];

  constexpr ValueTable() : entry() {
    for (int rows = 1; rows <= 12; ++rows) {
      fill<1>(rows);
      fill<2>(rows);
      fill<3>(rows);
      fill<4>(rows);
    }
  }

  template <int NV>
  constexpr void fill(int rows) {
    entry[0][NV - 1][rows - 1] = pick_value<false, NV, block_rows(NV)>(rows);
    entry[1][NV - 1][rows - 1] = pick_value<true, NV, block_rows(NV)>(rows);
  }
};

constexpr ValueTable value_table;

// 2^(x * scale) for x <= 0.
RETOUCH_INLINE vf exp2_scaled(vf x, float scale) {
  constexpr float q[] = {0.693147188f,   0.240226498f,   0.0555035743f,
                         0.00961823751f, 0.00133907355f, 0.000154035082f};
  constexpr float magic = 12582912.f;
  vf shifted = fma(x, set1(scale), set1(magic));
  vf k = shifted - magic;
  vf r = fma(x, set1(scale), -k);
  vf e = fma(r, polynomial(r, q), set1(1.f));
  return from_bits(bits(e) + ((bits(shifted) - bits(set1(magic))) << 23));
}

// Queries that are worked on together, one to a lane.
struct Panel {
  int64_t first, count, vectors; // queries first .. first + count - 1 of the call
  char* q;                       // packed, [head_dim words][lanes]
  float *o, *top, *sum;          // [value_dim][lanes], running maximum, running sum
};

template <bool Bf16>
class Head {
 public:
  Head(const AttentionArgs& args, int64_t sample, int64_t head)
      : g(args), head(head), item(Bf16 ? 2 : 4),
        words(Bf16 ? (args.head_dim + 1) / 2 : args.head_dim),
        scale((args.scale < 0 ? -args.scale : args.scale) * 1.44269504f) {
    k = g.k.data + (sample * g.keys * g.k.ld + head * g.head_dim) * item;
    v = g.v.data + (sample * g.keys * g.v.ld + head * g.value_dim) * item;
  }

  // Bytes of scratch for queries in `vectors` vectors.
  static int64_t scratch_bytes(const AttentionArgs& g, int64_t vectors) {
    int64_t width = max_vectors * lanes * 4;
    return vectors * lanes * 4 * (g.head_dim + g.value_dim + 4) + key_block * width +
           key_block / 2 * (width + round_up(g.value_dim, lanes) * 4) + 4096;
  }

  void run(int64_t first, int64_t count, char* scratch) {
    Panel panels[64];
    int64_t found = make_panels(panels, first, count, scratch);
    for (int64_t key = 0; key < g.keys; key += key_block) {
      int64_t n = min_of(key_block, g.keys - key);
      if constexpr (Bf16) interleave_values(key, n);
      for (int64_t i = 0; i < found; ++i) {
        multiply_keys(panels[i], key, n);
        update_softmax(panels[i], n, key == 0);
        multiply_values(panels[i], key, n, key == 0);
      }
    }
    for (int64_t i = 0; i < found; ++i) write(panels[i]);
  }

 private:
  int64_t make_panels(Panel* panels, int64_t first, int64_t count, char* scratch) {
    int64_t vectors = ceil_div(count, lanes), found = ceil_div(vectors, max_vectors);
    char* next = scratch;
    auto take = [&](int64_t bytes) {
      char* taken = next;
      next += round_up(bytes, 64);
      return taken;
    };
    scores = reinterpret_cast<float*>(take(key_block * max_vectors * lanes * 4));
    decay = reinterpret_cast<float*>(take(max_vectors * lanes * 4));
    weights = take(key_block / 2 * max_vectors * lanes * 4);
    pairs = take(key_block / 2 * round_up(g.value_dim, lanes) * 4);
    for (int64_t i = 0; i < found; ++i) {
      int64_t from = i * vectors / found, to = (i + 1) * vectors / found;
      int64_t width = (to - from) * lanes * 4;
      Panel& p = panels[i];
      p = {first + from * lanes, min_of((to - from) * lanes, count - from * lanes), to - from,
           take(words * width),  reinterpret_cast<float*>(take(g.value_dim * width)),
           reinterpret_cast<float*>(take(width)), reinterpret_cast<float*>(take(width))};
      pack_queries(p);
    }
    return found;
  }

  // A negative scale is moved into the queries: the maximum is taken before scaling.
  void pack_queries(const Panel& p) const {
    int64_t width = p.vectors * lanes;
    uint32_t flip = g.scale < 0 ? (Bf16 ? 0x80008000u : 0x80000000u) : 0;
    memset(p.q, 0, words * width * 4);
    for (int64_t i = 0; i < p.count; ++i) {
      int64_t m = p.first + i, line = g.q_index ? g.q_index[m] : m;
      if (line < 0) continue;
      const char* from = g.q.data + (line * g.q.ld + head * g.head_dim) * item;
      char* to = p.q + i * 4;
      for (int64_t w = 0; w < words; ++w) {
        uint32_t word = 0;
        if (Bf16 && 2 * w + 1 == g.head_dim)
          memcpy(&word, from + w * 4, 2);
        else
          memcpy(&word, from + w * 4, 4);
        word ^= flip;
        memcpy(to + w * width * 4, &word, 4);
      }
    }
  }

  void multiply_keys(const Panel& p, int64_t key, int64_t n) const {
    BlockArgs block{};
    block.a = k;
    block.ld_bytes = g.k.ld * item;
    block.taps = 1;
    block.channels = g.head_dim;
    block.b = p.q;
    int64_t blocks = ceil_div(n, block_rows(int(p.vectors)));
    for (int64_t i = 0, r = 0; i < blocks; ++i) {
      int64_t rows = (n - r + blocks - i - 1) / (blocks - i);
      block.row = key + r;
      block.c = scores + r * p.vectors * lanes;
      block_kernel(Bf16, p.vectors, rows, 0)(block);
      r += rows;
    }
  }

  void update_softmax(const Panel& p, int64_t n, bool start) const {
    const int64_t width = p.vectors * lanes;
    const float floor = -120.f / (scale > 0 ? scale : 1.f);
    for (int64_t j = 0; j < width; j += lanes) {
      vf tops[4];
      for (int u = 0; u < 4; ++u) tops[u] = load(scores + j);
      for (int64_t r = 1; r < n; ++r) {
        vf x = load(scores + r * width + j);
        tops[r & 3] = x > tops[r & 3] ? x : tops[r & 3];
      }
      for (int u = 1; u < 4; ++u) tops[0] = tops[u] > tops[0] ? tops[u] : tops[0];
      vf before = start ? tops[0] : load(p.top + j);
      vf top = tops[0] > before ? tops[0] : before;
      vf fade = exp2_scaled(at_least(before - top, floor), scale);
      vf sum = start ? vf{} : load(p.sum + j) * fade;
      store(p.top + j, top);
      store(decay + j, fade);
      store(p.sum + j, sum + exponentials(width, j, n, top, floor));
    }
  }

  // Turns the scores of one vector of queries into weights and returns their sum.
  vf exponentials(int64_t width, int64_t j, int64_t n, vf top, float floor) const {
    vf sums[2] = {};
    auto weight = [&](int64_t r) {
      return exp2_scaled(at_least(load(scores + r * width + j) - top, floor), scale);
    };
    if constexpr (Bf16) {
      for (int64_t r = 0; r < n; r += 2) {
        vf a = weight(r), b = r + 1 < n ? weight(r + 1) : vf{};
        sums[0] += a;
        sums[1] += b;
        vu word = round_to_bf16(a) | (round_to_bf16(b) << 16);
        memcpy(weights + (r / 2 * width + j) * 4, &word, sizeof(word));
      }
    } else {
      for (int64_t r = 0; r < n; ++r) {
        vf x = weight(r);
        sums[r & 1] += x;
        store(scores + r * width + j, x);
      }
    }
    return sums[0] + sums[1];
  }

  // Two keys' values side by side, as the pairwise dot product wants them.
  void interleave_values(int64_t key, int64_t n) const {
    int64_t ld = round_up(g.value_dim, lanes);
    for (int64_t r = 0; r < n; r += 2) {
      const char* a = v + (key + r) * g.v.ld * 2;
      char* to = pairs + r / 2 * ld * 4;
      for (int64_t j = 0; j < g.value_dim; j += lanes) {
        int64_t bytes = min_of(lanes, g.value_dim - j) * 2;
        vh low{}, high{};
        memcpy(&low, a + j * 2, bytes);
        if (r + 1 < n) memcpy(&high, a + g.v.ld * 2 + j * 2, bytes);
        vu word = __builtin_convertvector(low, vu) | (__builtin_convertvector(high, vu) << 16);
        memcpy(to + j * 4, &word, sizeof(word));
      }
    }
  }

  void multiply_values(const Panel& p, int64_t key, int64_t n, bool start) const {
    int64_t blocks = ceil_div(g.value_dim, block_rows(int(p.vectors)));
    for (int64_t i = 0, j = 0; i < blocks; ++i) {
      int64_t rows = (g.value_dim - j + blocks - i - 1) / (blocks - i);
      ValueArgs block;
      block.v = Bf16 ? pairs + j * 4 : v + (key * g.v.ld + j) * 4;
      block.ld_bytes = Bf16 ? round_up(g.value_dim, lanes) * 4 : g.v.ld * 4;
      block.steps = Bf16 ? (n + 1) / 2 : n;
      block.p = Bf16 ? weights : reinterpret_cast<const char*>(scores);
      block.o = p.o + j * p.vectors * lanes;
      block.decay = start ? nullptr : decay;
      value_table.entry[Bf16][p.vectors - 1][rows - 1](block);
      j += rows;
    }
  }

  void write(const Panel& p) const {
    const int64_t width = p.vectors * lanes;
    for (int64_t i = 0; i < width; i += lanes) {
      vf inverse = 1.f / load(p.sum + i);
      for (int64_t j = 0; j < g.value_dim; ++j)
        store(p.o + j * width + i, load(p.o + j * width + i) * inverse);
    }
    for (int64_t i = 0; i < p.count; ++i) {
      int64_t m = p.first + i, line = g.out_index ? g.out_index[m] : m;
      int64_t at = line * g.out.ld + head * g.value_dim;
      if (g.out.dtype == DType::f32)
        write_row(p.o + i, width, reinterpret_cast<float*>(g.out.data) + at);
      else
        write_row(p.o + i, width, reinterpret_cast<bf16*>(g.out.data) + at);
    }
  }

  template <class T>
  void write_row(const float* o, int64_t width, T* out) const {
    for (int64_t j = 0; j < g.value_dim; j += lanes) {
      int64_t n = min_of(lanes, g.value_dim - j);
      float row[lanes] = {};
      for (int64_t c = 0; c < n; ++c) row[c] = o[(j + c) * width];
      if (n == lanes)
        store(out + j, load(row));
      else
        store_part(out + j, load(row), n);
    }
  }

  const AttentionArgs& g;
  const int64_t head, item, words;
  const float scale; // in powers of two
  const char *k, *v;
  float *scores = nullptr, *decay = nullptr;
  char *weights = nullptr, *pairs = nullptr;
};

// How the queries of a sample are shared out: enough chunks to keep every thread busy, of few enough
// vectors to stay in the second-level cache.
int64_t count_chunks(const AttentionArgs& g, int threads, int64_t vectors) {
  int64_t most = g.head_dim + g.value_dim <= 320 ? 12 : 4;
  int64_t base = ceil_div(vectors, most), groups = g.samples * g.heads, best = base;
  int64_t best_cost = INT64_MAX;
  for (int64_t n = base; n <= min_of(vectors, base + 2 * threads); ++n) {
    int64_t cost = ceil_div(groups * n, threads) * (4 * ceil_div(vectors, n) + 1);
    if (cost < best_cost) best_cost = cost, best = n;
  }
  return best;
}

template <bool Bf16>
void run(const AttentionArgs& g, int threads) {
  int64_t most = 0;
  for (int64_t b = 0; b < g.samples; ++b) most = max_of(most, g.bounds[b + 1] - g.bounds[b]);
  int64_t vectors = ceil_div(most, lanes);
  if (!vectors) return;
  if (g.bounds[g.samples] * g.keys * g.heads * (g.head_dim + g.value_dim) < 65536) threads = 1;
  int64_t chunks = count_chunks(g, threads, vectors);
  int64_t bytes = Head<Bf16>::scratch_bytes(g, ceil_div(vectors, chunks) + 1);
  parallel(threads, g.samples * g.heads * chunks, [&](int64_t task) {
    int64_t chunk = task % chunks, head = task / chunks % g.heads, sample = task / chunks / g.heads;
    int64_t first = g.bounds[sample], count = g.bounds[sample + 1] - first;
    int64_t total = ceil_div(count, lanes);
    int64_t from = chunk * total / chunks * lanes, to = (chunk + 1) * total / chunks * lanes;
    to = min_of(to, count);
    if (from >= to) return;
    char* scratch = static_cast<char*>(thread_scratch(bytes));
    Head<Bf16>(g, sample, head).run(first + from, to - from, scratch);
  });
}

} // namespace

void attention(const AttentionArgs& args, int threads) {
  if (args.q.dtype == DType::bf16)
    run<true>(args, threads);
  else
    run<false>(args, threads);
}

} // namespace retouch::RETOUCH_NS
