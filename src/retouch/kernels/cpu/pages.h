// Memory of whole pages, and what becomes of it when it is freed.
#pragma once
#include <cstddef>

namespace retouch {

struct Span {
  void* data;
  size_t bytes;
  bool huge; // asked for huge pages
};

// Page-aligned memory with any content, of `bytes` or somewhat more; if `huge`, huge pages are
// asked for from 2 MiB, which the system may have to look for longer than small blocks are used.
//
// Touching fresh pages takes ten times as long as copying to pages that are there, so blocks from
// 256 KiB are kept when they are freed. Huge ones serve requests that they hold at most an eighth
// more than, up to an eighth of the machine's memory: a new recording wants the sizes of the last
// one. Others serve in parts what edits ask for, of any size; once a burst of such requests is
// over, as much as it took is brought in for the next.
Span allocate_pages(size_t bytes, bool huge = true);
void free_pages(Span pages);

// Gives the blocks that are kept back to the system; returns their bytes.
size_t release_pages();

} // namespace retouch
