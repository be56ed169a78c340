// Weights of a matrix product in the order the micro kernels read them.
#pragma once
#include "types.h"

namespace retouch {

// Steps of a tap, each of 32 bits for every column.
int64_t tap_words(const PackedWeights& shape);

// Columns of all panels, with those that pad them.
int64_t packed_columns(const PackedWeights& shape);

// Bytes of the packed form of weights [outputs, taps, channels].
int64_t packed_bytes(const PackedWeights& shape);

struct WeightStrides {
  int64_t output, tap, channel; // in elements
};

// weight: [outputs, taps, channels] of shape.dtype; scales [outputs, taps] of int8, else nullptr;
// data: packed_bytes() of memory.
void pack_weights(const PackedWeights& shape, const void* weight, const WeightStrides& strides,
                  const float* scales, char* data, int threads);

} // namespace retouch
