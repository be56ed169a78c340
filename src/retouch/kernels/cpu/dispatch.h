// Choice of the instruction set.
#pragma once
#include "types.h"

#include <string>
#include <vector>

namespace retouch {

// Kernels in use: the best this processor has, or what RETOUCH_ISA or set_isa names.
const KernelTable& kernels();
void set_isa(const std::string& name);
std::vector<std::string> available_isas(); // best first

int threads();
void set_threads(int count);

} // namespace retouch
