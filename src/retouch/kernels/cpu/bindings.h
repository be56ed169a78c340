// Parts of the extension module.
#pragma once
#include <nanobind/nanobind.h>

namespace retouch {

void bind_handles(nanobind::module_& m); // Rows, Index, Arena, Program, Packed and helpers
void bind_ops(nanobind::module_& m);     // the kernels

} // namespace retouch
