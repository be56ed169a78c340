// Pixel shuffle and unshuffle on rows.
#pragma once
#include "types.h"

namespace retouch {

// out[m, c] = a[index[m], phase[m] * outer_stride + c * channel_stride]
void shuffle(const ShuffleArgs& args, int threads);

// out[m, t * outer_stride + c * channel_stride] = a[index[m, t], c]
void unshuffle(const ShuffleArgs& args, int threads);

} // namespace retouch
