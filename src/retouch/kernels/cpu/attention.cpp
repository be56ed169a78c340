// Attention with an online softmax, transposed: a lane is a query.
//
//   S^T = K Q^T (keys x queries), P^T = exp(scale * S^T - max), O^T += V^T P^T
//
// Maxima and sums over keys are then plain vector operations, K and V are read where they lie, and
// only the few queries of a panel are packed. bf16 inputs use exact products with float32 sums; the
// weights P are rounded to bf16 for the second product.
#ifndef RETOUCH_BIND
#include "attention_tile.h"
#include "gemm_tile.h"
#include "ops.h"
#include "parallel.h"
#include "runtime.h"
#include "vecmath.h"

namespace retouch::RETOUCH_NS {

namespace {

constexpr int64_t key_block = 128; // even: bf16 keys are taken in pairs

// 2^(x * scale) for x <= 0, to 1e-7, or to 3e-6 where bfloat16 follows.
template <bool Bf16>
RETOUCH_INLINE vf exp2_scaled(vf x, float scale) {
  constexpr float fine[] = {0.693146978f, 0.240222421f, 0.0555073375f, 0.00967151287f,
                            0.00132647239f};
  constexpr float coarse[] = {0.693124193f, 0.240240987f, 0.0559064282f, 0.00958285068f};
  constexpr float magic = 12582912.f;
  vf shifted = fma(x, set1(scale), set1(magic));
  vf r = fma(x, set1(scale), magic - shifted);
  vf q;
  if constexpr (Bf16)
    q = polynomial(r, coarse);
  else
    q = polynomial(r, fine);
  vf e = fma(r, q, set1(1.f));
  return from_bits(bits(e) + (bits(shifted) << 23));
}

// Two weights, 0 to 1, as bf16 side by side (rounded half up: they are never negative).
RETOUCH_INLINE vu weight_pair(vf a, vf b) {
  return ((bits(a) + 0x8000) >> 16) | ((bits(b) + 0x8000) & 0xffff0000u);
}

// Queries that are worked on together, one to a lane.
struct Panel {
  int64_t first, count, vectors; // queries first .. first + count - 1 of the call
  char* q;                       // packed, [head_dim words][lanes]
  float *o, *top, *sum;          // [value_dim][lanes], running maximum, running sum
  float* gates;                  // [lanes], nullptr: all 1
};

template <bool Bf16>
class Head {
 public:
  Head(const AttentionArgs& args, int64_t sample, int64_t head)
      : g(args), sample(sample), head(head), item(Bf16 ? 2 : 4),
        words(Bf16 ? (args.head_dim + 1) / 2 : args.head_dim),
        scale((args.scale < 0 ? -args.scale : args.scale) * 1.44269504f) {
    if (g.bias.data)
      bias = reinterpret_cast<const float*>(g.bias.data) + sample * g.bias.ld +
             (g.bias.channels == g.keys ? 0 : head * g.keys);
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
    for (int64_t r = 0, before = 0; r < g.run_count; before += g.runs[r++].keys) {
      keys = of_head(g.runs[r].k, g.runs[r].keys, g.head_dim);
      values = of_head(g.runs[r].v, g.runs[r].keys, g.value_dim);
      for (int64_t key = 0; key < keys.count; key += key_block)
        read(panels, found, key, before + key);
    }
    for (int64_t i = 0; i < found; ++i) write(panels[i]);
  }

 private:
  // The rows of a run that belong to this sample and head.
  struct Part {
    const char* data;
    int64_t ld, count, channels;
  };

  Part of_head(const Matrix& rows, int64_t count, int64_t channels) const {
    return {rows.data + (sample * count * rows.ld + head * channels) * item, rows.ld, count,
            channels};
  }

  // A block of keys, from `key` of the run on, which is key `place` of the sample.
  void read(const Panel* panels, int64_t found, int64_t key, int64_t place) const {
    int64_t n = min_of(key_block, keys.count - key);
    if constexpr (Bf16) interleave_values(key, n);
    for (int64_t i = 0; i < found; ++i) {
      multiply_keys(panels[i], key, n);
      if (g.bias.data) add_bias(panels[i], place, n);
      if (g.limits) hide_later(panels[i], place, n);
      if (i == 0) prefetch(keys, key + n);
      update_softmax(panels[i], n, place == 0);
      if (i == 0) prefetch(values, key + n);
      multiply_values(panels[i], key, n, place == 0);
    }
  }

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
      p = {first + from * lanes,
           min_of((to - from) * lanes, count - from * lanes),
           to - from,
           take(words * width),
           reinterpret_cast<float*>(take(g.value_dim * width)),
           reinterpret_cast<float*>(take(width)),
           reinterpret_cast<float*>(take(width)),
           g.gates.data ? reinterpret_cast<float*>(take(width)) : nullptr};
      pack_queries(p);
      if (p.gates) pack_gates(p);
    }
    return found;
  }

  // A negative scale is moved into the queries: the maximum is taken before scaling.
  void pack_queries(const Panel& p) const {
    const int64_t width = p.vectors * lanes;
    const vu flip = vu{} + (g.scale < 0 ? (Bf16 ? 0x80008000u : 0x80000000u) : 0u);
    for (int64_t i = 0; i < width; i += lanes)
      for (int64_t w = 0; w < words; w += lanes) {
        vf square[lanes];
        for (int64_t l = 0; l < lanes; ++l)
          square[l] = i + l < p.count ? query_words(p.first + i + l, w) : vf{};
        transpose(square);
        for (int64_t l = 0; l < min_of(lanes, words - w); ++l)
          store(reinterpret_cast<float*>(p.q) + (w + l) * width + i,
                from_bits(bits(square[l]) ^ flip));
      }
  }

  void pack_gates(const Panel& p) const {
    const float* from = reinterpret_cast<const float*>(g.gates.data);
    for (int64_t i = 0; i < p.vectors * lanes; ++i) {
      int64_t m = p.first + min_of(i, p.count - 1), line = g.gate_index ? g.gate_index[m] : m;
      p.gates[i] = line < 0 ? 0.f : from[line * g.gates.ld];
    }
  }

  // Words w .. w + lanes - 1 of a query, zero past its end.
  vf query_words(int64_t m, int64_t w) const {
    int64_t line = g.q_index ? g.q_index[m] : m;
    if (line < 0) return vf{};
    const char* from = g.q.data + (line * g.q.ld + head * g.head_dim) * item + w * 4;
    const float* words_at = reinterpret_cast<const float*>(from);
    int64_t whole = g.head_dim * item / 4 - w; // an odd bf16 channel at the end is half a word
    if (whole >= lanes) return load(words_at);
    vf x = whole > 0 ? load_part(words_at, whole) : vf{};
    if (Bf16 && (g.head_dim & 1)) {
      uint32_t word = 0;
      memcpy(&word, from + whole * 4, 2);
      memcpy(reinterpret_cast<char*>(&x) + whole * 4, &word, 4);
    }
    return x;
  }

  void multiply_keys(const Panel& p, int64_t key, int64_t n) const {
    BlockArgs block{};
    block.a = keys.data;
    block.ld_bytes = keys.ld * item;
    block.taps = 1;
    block.channels = g.head_dim;
    block.b = p.q;
    int64_t blocks = ceil_div(n, block_rows(int(p.vectors)));
    for (int64_t i = 0, r = 0; i < blocks; ++i) {
      int64_t rows = (n - r + blocks - i - 1) / (blocks - i);
      block.row = key + r;
      block.c = scores + r * p.vectors * lanes;
      block_kernel(Bf16 ? DType::bf16 : DType::f32, p.vectors, rows, 0)(block);
      r += rows;
    }
  }

  // Scores are not scaled yet, so a bias is taken over the scale.
  void add_bias(const Panel& p, int64_t place, int64_t n) const {
    const int64_t width = p.vectors * lanes;
    const float over = 1.44269504f / scale;
    for (int64_t r = 0; r < n; ++r) {
      vf term = set1(bias[place + r] * over);
      for (int64_t j = 0; j < width; j += lanes) {
        float* at = scores + r * width + j;
        store(at, load(at) + (p.gates ? load(p.gates + j) * term : term));
      }
    }
  }

  // Keys from a query's limit on weigh nothing beside the first one, which every query reads.
  void hide_later(const Panel& p, int64_t place, int64_t n) const {
    const int64_t width = p.vectors * lanes;
    for (int64_t j = 0; j < width; j += lanes) {
      vi limit{};
      int64_t queries = min_of(lanes, p.count - j);
      if (queries > 0) memcpy(&limit, g.limits + p.first + j, size_t(queries) * 4);
      for (int64_t r = 0; r < n; ++r) {
        float* at = scores + r * width + j;
        store(at, vi{} + int32_t(place + r) < limit ? load(at) : set1(-1e30f));
      }
    }
  }

  // The part of the next block's rows that this head reads: a stride that hardware does not follow.
  void prefetch(const Part& rows, int64_t key) const {
    if (rows.ld == rows.channels) return;
    for (int64_t r = key; r < min_of(key + key_block, rows.count); ++r)
      for (int64_t at = 0; at < rows.channels * item; at += 64)
        __builtin_prefetch(rows.data + r * rows.ld * item + at, 0, 2);
  }

  void update_softmax(const Panel& p, int64_t n, bool start) const {
    const int64_t width = p.vectors * lanes;
    const float floor = -120.f / (scale > 0 ? scale : 1.f);
    for (int64_t j = 0; j < width; j += lanes) {
      vf tops[4];
      for (int u = 0; u < 4; ++u) tops[u] = load(scores + j);
      int64_t r = 0;
      for (; r + 4 <= n; r += 4)
        for (int u = 0; u < 4; ++u) tops[u] = max_of(tops[u], load(scores + (r + u) * width + j));
      for (; r < n; ++r) tops[0] = max_of(tops[0], load(scores + r * width + j));
      vf top = max_of(max_of(tops[0], tops[1]), max_of(tops[2], tops[3]));
      vf before = start ? top : load(p.top + j);
      top = max_of(before, top);
      vf fade = exp2_scaled<false>(at_least(before - top, floor), scale);
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
      return exp2_scaled<Bf16>(at_least(load(scores + r * width + j) - top, floor), scale);
    };
    auto keep = [&](int64_t r, vf a, vf b) {
      sums[0] += a;
      sums[1] += b;
      if constexpr (Bf16) {
        vu word = weight_pair(a, b);
        memcpy(weights + (r / 2 * width + j) * 4, &word, sizeof(word));
      } else {
        store(scores + r * width + j, a);
        store(scores + (r + 1) * width + j, b);
      }
    };
    int64_t r = 0;
    for (; r + 2 <= n; r += 2) keep(r, weight(r), weight(r + 1));
    if (r < n) keep(r, weight(r), vf{}); // writes one row more: key_block is even
    return sums[0] + sums[1];
  }

  // Two keys' values side by side, as the pairwise dot product wants them.
  void interleave_values(int64_t key, int64_t n) const {
    int64_t ld = round_up(g.value_dim, lanes);
    for (int64_t r = 0; r < n; r += 2) {
      const char* a = values.data + (key + r) * values.ld * 2;
      char* to = pairs + r / 2 * ld * 4;
      for (int64_t j = 0; j < g.value_dim; j += lanes) {
        int64_t bytes = min_of(lanes, g.value_dim - j) * 2;
        vh low{}, high{};
        memcpy(&low, a + j * 2, bytes);
        if (r + 1 < n) memcpy(&high, a + values.ld * 2 + j * 2, bytes);
        vu word = widen_bits(low) | (widen_bits(high) << 16);
        memcpy(to + j * 4, &word, sizeof(word));
      }
    }
  }

  void multiply_values(const Panel& p, int64_t key, int64_t n, bool start) const {
    int64_t blocks = ceil_div(g.value_dim, block_rows(int(p.vectors)));
    for (int64_t i = 0, j = 0; i < blocks; ++i) {
      int64_t rows = (g.value_dim - j + blocks - i - 1) / (blocks - i);
      ValueArgs block;
      block.v = Bf16 ? pairs + j * 4 : values.data + (key * values.ld + j) * 4;
      block.ld_bytes = Bf16 ? round_up(g.value_dim, lanes) * 4 : values.ld * 4;
      block.steps = Bf16 ? (n + 1) / 2 : n;
      block.p = Bf16 ? weights : reinterpret_cast<const char*>(scores);
      block.o = p.o + j * p.vectors * lanes;
      block.decay = start ? nullptr : decay;
      value_block(Bf16, p.vectors, rows)(block);
      j += rows;
    }
  }

  void write(const Panel& p) const {
    if (g.out.dtype == DType::f32)
      write_as<float>(p);
    else
      write_as<bf16>(p);
  }

  template <class T>
  void write_as(const Panel& p) const {
    const int64_t width = p.vectors * lanes;
    for (int64_t i = 0; i < p.count; i += lanes) {
      vf inverse = 1.f / load(p.sum + i);
      for (int64_t j = 0; j < g.value_dim; j += lanes) {
        const int64_t n = min_of(lanes, g.value_dim - j);
        vf square[lanes];
        for (int64_t l = 0; l < lanes; ++l)
          square[l] = l < n ? load(p.o + (j + l) * width + i) * inverse : vf{};
        transpose(square);
        for (int64_t l = 0; l < min_of(lanes, p.count - i); ++l) {
          int64_t m = p.first + i + l, line = g.out_index ? g.out_index[m] : m;
          T* out = reinterpret_cast<T*>(g.out.data) + line * g.out.ld + head * g.value_dim + j;
          if (n == lanes)
            store(out, square[l]);
          else
            store_part(out, square[l], n);
        }
      }
    }
  }

  const AttentionArgs& g;
  const int64_t sample, head, item, words;
  const float scale; // in powers of two
  Part keys{}, values{};
  const float* bias = nullptr;
  float *scores = nullptr, *decay = nullptr;
  char *weights = nullptr, *pairs = nullptr;
};

// How the queries of a sample are shared out: enough chunks to keep every thread busy, of few
// enough vectors to stay in the second-level cache.
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
    // With few keys, the heads of a query are next to each other in memory; with many, its keys.
    bool few = g.keys <= 4 * key_block;
    int64_t sample = task / chunks / g.heads, rest = task % (chunks * g.heads);
    int64_t chunk = few ? rest / g.heads : rest % chunks;
    int64_t head = few ? rest % g.heads : rest / chunks;
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

#else
#include "calls.h"

namespace retouch {

using namespace nb::literals;

namespace {

void check_bias(const Rows& bias, const AttentionArgs& args) {
  check_dtype(bias, {DType::f32}, "attention: bias");
  check_same(bias.m.rows, args.samples, "rows of bias");
  if (bias.m.channels != args.keys && bias.m.channels != args.keys * args.heads)
    bad_value("attention: a bias of " + str(bias.m.channels) + " columns for " + str(args.keys) +
              " keys of " + str(args.heads) + " heads");
  if (args.scale == 0) bad_value("attention: a bias needs a scale other than 0");
}

void check_gates(const Rows& gates, const Rows* bias) {
  check_dtype(gates, {DType::f32}, "attention: gates");
  check_same(gates.m.channels, 1, "channels of gates");
  if (!bias) bad_value("attention: gates need a bias");
}

const int32_t* check_limits(const Index* limits, int64_t m) {
  if (!limits) return nullptr;
  check_same(limits->table.count * limits->table.taps, m, "length of limits");
  if (m && limits->min < 1) bad_value("attention: limits must be at least 1");
  return limits->table.data;
}

std::vector<KeyRun> key_runs(const PartList& k, const PartList& v, const Rows& q, const Rows& out,
                             int64_t samples) {
  check_same(int64_t(v.items.size()), int64_t(k.items.size()), "runs of v");
  if (k.items.empty()) bad_value("attention: no keys");
  std::vector<KeyRun> runs;
  for (size_t i = 0; i < k.items.size(); ++i) {
    const Rows &keys = *k.items[i].rows, &values = *v.items[i].rows;
    check_float(keys, "attention");
    check_float(values, "attention");
    if (keys.m.dtype != q.m.dtype || values.m.dtype != q.m.dtype)
      bad_type("attention: q, k and v must have one dtype");
    check_same(keys.m.channels, q.m.channels, "channels of k");
    check_same(values.m.channels, out.m.channels, "channels of v");
    check_same(values.m.rows, keys.m.rows, "rows of v");
    if (samples < 1 || keys.m.rows % samples != 0 || keys.m.rows == 0)
      bad_value("attention: " + str(keys.m.rows) + " keys do not divide into " + str(samples) +
                " samples");
    runs.push_back({keys.m, values.m, keys.m.rows / samples});
  }
  return runs;
}

void call_attention(const Rows& out, const Index* out_index, const Rows& q, const Index* q_index,
                    const PartList& k, const PartList& v, int64_t heads, double scale,
                    const Index& bounds, const Rows* bias, const Index* limits, const Rows* gates,
                    const Index* gate_index) {
  for (const Rows* r : {&out, &q}) check_float(*r, "attention");
  if (heads < 1 || q.m.channels % heads != 0 || out.m.channels % heads != 0)
    bad_value("attention: " + str(q.m.channels) + " and " + str(out.m.channels) +
              " channels do not divide into " + str(heads) + " heads");
  int64_t m = count_rows(out, out_index), samples = bounds.table.count - 1, keys = 0;
  std::vector<KeyRun> runs = key_runs(k, v, q, out, samples);
  for (const KeyRun& run : runs) keys += run.keys;
  const int32_t* b = bounds.table.data;
  bool ordered = b[0] == 0 && b[samples] == m;
  for (int64_t i = 0; i < samples; ++i) ordered &= b[i] <= b[i + 1];
  if (!ordered) bad_value("attention: bounds must rise from 0 to the number of queries " + str(m));
  AttentionArgs args{out.m,
                     q.m,
                     runs.data(),
                     int64_t(runs.size()),
                     check_target(out, out_index, "out_index"),
                     check_gather(q, q_index, m, 1, "q_index"),
                     heads,
                     q.m.channels / heads,
                     out.m.channels / heads,
                     samples,
                     keys,
                     b,
                     float(scale),
                     bias ? bias->m : Matrix{},
                     check_limits(limits, m),
                     gates ? gates->m : Matrix{},
                     gates ? check_gather(*gates, gate_index, m, 1, "gate_index") : nullptr};
  if (bias) check_bias(*bias, args);
  if (gates) check_gates(*gates, bias);
  if (!m || !q.m.channels || !out.m.channels) return;
  launch(kernels().attention, args);
}

} // namespace

void bind_attention(nb::module_& m) {
  bind(m, "attention", call_attention, "out"_a, "out_index"_a.none(), "q"_a, "q_index"_a.none(),
       "k"_a, "v"_a, "heads"_a, "scale"_a, "bounds"_a, "bias"_a.none() = nb::none(),
       "limits"_a.none() = nb::none(), "gates"_a.none() = nb::none(),
       "gate_index"_a.none() = nb::none());
}

} // namespace retouch

#endif
