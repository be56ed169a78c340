// How rows move between two runs, as told by a few of them: see retouch/ops/moments.py.
#pragma once
#include "types.h"

namespace retouch {

// fit float32 [samples, 2 * channels]: scales, then shifts, that match mean and deviation of
// `before` with those of `after` over rows bounds[b] to bounds[b + 1].
void fit_probes(const FitProbesArgs& args);

// shifts float64 [samples, 2 * channels]: by how much sums and sums of squares change when x
// becomes scale * x + shift.
void move_sums(const MoveSumsArgs& args);

} // namespace retouch
