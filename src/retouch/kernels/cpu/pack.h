// Weights of a matrix product in the order the micro kernels read them.
#pragma once
#include "types.h"

namespace retouch {

// Bytes of the packed form of weights [outputs, taps, channels].
int64_t packed_bytes(const PackedWeights& shape);

struct WeightStrides {
  int64_t output, tap, channel; // in elements
};

// weight: [outputs, taps, channels] of shape.dtype; data: packed_bytes() of memory.
void pack_weights(const PackedWeights& shape, const void* weight, const WeightStrides& strides,
                  char* data, int threads);

} // namespace retouch
