// The kernels that are the same for every instruction set.
#pragma once
#include "types.h"

namespace retouch {

#define RETOUCH_ISA_KERNEL(name, Args, source)
#define RETOUCH_COMMON_KERNEL(name, Args, source) void name(const Args& args, int threads);
#include "kernels.inc"

} // namespace retouch
