// Where the panels of packed weights are.
#pragma once
#include "simd.h"
#include "types.h"

namespace retouch::RETOUCH_NS {

struct Panel {
  int64_t group, column, columns, vectors; // column: of the whole output
  int64_t offset;                          // bytes into the packed weights
};

class Panels {
 public:
  // `words`: steps of a tap, see tap_words.
  Panels(const PackedWeights& weights, int64_t words)
      : group_outputs(weights.outputs / weights.groups),
        group_vectors(ceil_div(group_outputs, lanes)),
        group_panels(ceil_div(group_vectors, max_vectors)), depth(words * weights.taps),
        count(group_panels * weights.groups) {}

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

} // namespace retouch::RETOUCH_NS
