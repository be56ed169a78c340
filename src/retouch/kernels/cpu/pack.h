// Weights of a matrix product in the order the micro kernels read them.
#pragma once
#include "types.h"

namespace retouch {

// Steps of a tap, each of 32 bits for every column.
int64_t tap_words(const PackedWeights& shape);

// Columns of all panels, with those that pad them.
int64_t packed_columns(const PackedWeights& shape);

// Bytes of the packed form of weights [outputs, taps, channels]; scales of int8 come last, at an
// offset.
int64_t packed_bytes(const PackedWeights& shape);
int64_t scales_offset(const PackedWeights& shape);

struct WeightStrides {
  int64_t output, tap, channel; // in elements
};

// weight: [outputs, taps, channels] of shape.dtype; data: packed_bytes() of memory.
void pack_weights(const PackedWeights& shape, const void* weight, const WeightStrides& strides,
                  char* data, int threads);

// scales [outputs] as kernels read them: packed_columns() numbers.
void pack_scales(const PackedWeights& shape, const float* scales, float* data);

} // namespace retouch
