// Memory and threads, shared by the kernels of every instruction set.
#pragma once
#include <cstddef>
#include <cstdint>

namespace retouch {

struct Span {
  void* data;
  size_t bytes;
};

// Page-aligned memory with any content, of `bytes` or somewhat more; if `huge`, huge pages are
// asked for from 2 MiB, which the system may have to look for longer than small blocks are used.
// Freed blocks from 256 KiB are kept for requests that they hold at most an eighth more than, up to
// an eighth of the machine's memory: touching fresh pages takes ten times as long as copying to
// pages that are there. A new recording wants the sizes of the last one, and an edit those of an
// edit that was dropped.
Span allocate_pages(size_t bytes, bool huge = true);
void free_pages(Span pages);

// Gives the blocks that are kept back to the system; returns their bytes.
size_t release_pages();

// 64-byte aligned scratch of the calling thread; the next call from the same thread reuses it.
void* thread_scratch(size_t bytes);
// The same for one buffer shared by all threads of a call; held by the thread that calls a kernel.
void* call_scratch(size_t bytes);

// At least `bytes` of zeros: what index -1 reads.
const void* zero_row(size_t bytes);

} // namespace retouch
