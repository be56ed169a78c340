// The kernels of one instruction set.
#pragma once
#include "simd.h"
#include "types.h"

namespace retouch::RETOUCH_NS {

void gemm(const GemmArgs& args, int threads);
void row_map(const RowMapArgs& args, int threads);
void depthwise(const DepthwiseArgs& args, int threads);
void pool(const PoolArgs& args, int threads);
void attention(const AttentionArgs& args, int threads);
void channel_sums(const ChannelSumsArgs& args, int threads);

} // namespace retouch::RETOUCH_NS
