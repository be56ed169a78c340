// Where the panels of packed weights are, and in what stretches they are summed.
#pragma once
#include "pack.h"
#include "simd.h"
#include "types.h"

namespace retouch::RETOUCH_NS {

struct Panel {
  int64_t group, column, columns, vectors; // column: of the whole output
  int64_t offset;                          // bytes into the packed weights
};

class Panels {
 public:
  explicit Panels(const PackedWeights& weights)
      : group_outputs(weights.outputs / weights.groups),
        group_vectors(ceil_div(group_outputs, lanes)),
        group_panels(ceil_div(group_vectors, max_vectors)),
        depth(tap_words(weights) * weights.taps), count(group_panels * weights.groups) {}

  Panel operator[](int64_t i) const {
    int64_t p = i % group_panels, group = i / group_panels;
    int64_t first = p * group_vectors / group_panels;
    int64_t last = (p + 1) * group_vectors / group_panels;
    int64_t vector = group * group_vectors + first;
    return {group, group * group_outputs + first * lanes,
            min_of((last - first) * lanes, group_outputs - first * lanes), last - first,
            vector * lanes * 4 * depth};
  }

 private:
  int64_t group_outputs, group_vectors, group_panels, depth;

 public:
  int64_t count;
};

// A stretch of the summation: some whole taps, or a range of channels of one tap. The cut depends
// on the weights' shape only; every stretch is summed from zero and the sums are added in order.
struct Stretch {
  int64_t tap, taps, channel, channels;
  int64_t skipped, words; // 32-bit words of a row of A before it (over all taps) and in it
};

class Stretches {
 public:
  explicit Stretches(const PackedWeights& weights)
      : w(weights), words(tap_words(w)), per_word(w.dtype == DType::i8     ? 4
                                                  : w.dtype == DType::bf16 ? 2
                                                                           : 1) {
    bool whole = w.dtype == DType::i8; // a stretch of levels is one tap
    parts = whole ? 1 : ceil_div(words, longest);
    part_words = whole ? words : round_up(ceil_div(words, parts), 8);
    parts = ceil_div(words, part_words);
    taps_per = whole || parts > 1 ? 1 : max_of(1, longest / words);
    int64_t groups = ceil_div(w.taps, taps_per);
    taps_per = ceil_div(w.taps, groups);
    count = ceil_div(w.taps, taps_per) * parts;
  }

  Stretch operator[](int64_t i) const {
    int64_t tap = i / parts * taps_per, first = i % parts * part_words;
    int64_t part = min_of(part_words, words - first);
    return {tap,
            min_of(taps_per, w.taps - tap),
            first * per_word,
            min_of(part * per_word, w.channels - first * per_word),
            tap * words + first,
            min_of(taps_per, w.taps - tap) * part};
  }

 private:
  static constexpr int64_t longest = 448; // words
  const PackedWeights& w;
  int64_t words, parts, part_words, taps_per;

 public:
  int64_t per_word, count; // numbers of a word; stretches
};

} // namespace retouch::RETOUCH_NS
