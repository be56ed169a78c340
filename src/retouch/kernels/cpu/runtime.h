// Memory and threads, shared by the kernels of every instruction set.
#pragma once
#include <cstddef>
#include <cstdint>

namespace retouch {

// 64-byte aligned scratch of the calling thread; the next call from the same thread reuses it.
void* thread_scratch(size_t bytes);
// The same for one buffer shared by all threads of a call; held by the thread that calls a kernel.
void* call_scratch(size_t bytes);

// At least `bytes` of zeros: what index -1 reads.
const void* zero_row(size_t bytes);

} // namespace retouch
