// Memory and threads, shared by the kernels of every instruction set.
#pragma once
#include <cstddef>
#include <cstdint>

namespace retouch {

// Page-aligned memory with any content; huge pages are asked for from 2 MiB. Freed blocks of that
// size are kept for the next request of the same size, up to an eighth of the machine's memory:
// touching fresh pages costs more than most kernels do, and a new recording wants the sizes of the
// last one.
void* allocate_pages(size_t bytes);
void free_pages(void* data, size_t bytes);

// Gives the blocks that are kept back to the system; returns their bytes.
size_t release_pages();

// 64-byte aligned scratch of the calling thread; the next call from the same thread reuses it.
void* thread_scratch(size_t bytes);
// The same for one buffer shared by all threads of a call; held by the thread that calls a kernel.
void* call_scratch(size_t bytes);

// At least `bytes` of zeros: what index -1 reads.
const void* zero_row(size_t bytes);

} // namespace retouch
