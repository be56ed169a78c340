// The kernels of one instruction set.
#pragma once
#include "simd.h"
#include "types.h"

namespace retouch::RETOUCH_NS {

#define RETOUCH_ISA_KERNEL(name, Args, source) void name(const Args& args, int threads);
#define RETOUCH_COMMON_KERNEL(name, Args, source)
#include "kernels.inc"

} // namespace retouch::RETOUCH_NS
