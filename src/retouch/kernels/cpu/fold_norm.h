// From sums of a map to the scale and shift of its normalisation.
#pragma once
#include "types.h"

namespace retouch {

// parts: float64 [samples, 2 * channels of the part], sums then sums of squares; out: float32
// [samples, 2 * channels], gamma * rstd, then beta - mean * gamma * rstd, per group of channels.
// shifts are added to the parts.
void fold_norm(const FoldNormArgs& args);

} // namespace retouch
