#include "runtime.h"

#include "system.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <vector>

namespace retouch {

namespace {

constexpr size_t smallest_kept = size_t(256) << 10;

// Whole huge pages where that wastes little.
size_t mapping_size(size_t bytes) {
  size_t unit = bytes >= 16 * huge_page ? huge_page : bytes >= smallest_kept ? 65536 : 4096;
  return (bytes + unit - 1) / unit * unit;
}

// Freed blocks, oldest first.
class Reserve {
 public:
  // The smallest block that is not much larger; {nullptr, 0} if there is none.
  Span take(size_t size) {
    std::lock_guard lock(mutex);
    size_t best = blocks.size();
    for (size_t i = blocks.size(); i-- > 0;)
      if (blocks[i].bytes >= size && blocks[i].bytes <= size + size / 8 &&
          (best == blocks.size() || blocks[i].bytes < blocks[best].bytes))
        best = i;
    if (best == blocks.size()) return {nullptr, 0};
    Span found = blocks[best];
    blocks.erase(blocks.begin() + ptrdiff_t(best));
    total -= found.bytes;
    return found;
  }

  void keep(Span block) {
    std::lock_guard lock(mutex);
    blocks.push_back(block);
    total += block.bytes;
    shrink(limit);
  }

  size_t release() {
    std::lock_guard lock(mutex);
    size_t before = total;
    shrink(0);
    return before;
  }

 private:
  void shrink(size_t most) {
    size_t gone = 0;
    while (total > most) {
      unmap_memory(blocks[gone].data, blocks[gone].bytes);
      total -= blocks[gone++].bytes;
    }
    blocks.erase(blocks.begin(), blocks.begin() + ptrdiff_t(gone));
  }

  std::mutex mutex;
  std::vector<Span> blocks;
  size_t total = 0;
  const size_t limit = physical_memory() / 8;
};

// Never destroyed: handles may outlive static objects when the interpreter ends.
Reserve& reserve() {
  static Reserve* blocks = new Reserve;
  return *blocks;
}

struct Scratch {
  Span pages{nullptr, 0};

  ~Scratch() {
    if (pages.data) free_pages(pages);
  }

  void* reserve(size_t wanted) {
    if (wanted > pages.bytes) {
      if (pages.data) free_pages(pages);
      pages = {nullptr, 0};
      pages = allocate_pages(wanted);
    }
    return pages.data;
  }
};

} // namespace

Span allocate_pages(size_t bytes, bool huge) {
  size_t size = mapping_size(bytes ? bytes : 1);
  Span found = size >= smallest_kept ? reserve().take(size) : Span{nullptr, 0};
  return found.data ? found : Span{map_memory(size, huge), size};
}

void free_pages(Span pages) {
  if (pages.bytes >= smallest_kept)
    reserve().keep(pages);
  else
    unmap_memory(pages.data, pages.bytes);
}

size_t release_pages() {
  return reserve().release();
}

void* thread_scratch(size_t bytes) {
  static thread_local Scratch scratch;
  return scratch.reserve(bytes);
}

void* call_scratch(size_t bytes) {
  static thread_local Scratch scratch;
  return scratch.reserve(bytes);
}

const void* zero_row(size_t bytes) {
  static std::atomic<const void*> row{nullptr};
  static size_t size = 0;
  static std::mutex mutex;
  alignas(64) static const char small[65536] = {};
  if (bytes <= sizeof(small)) return small;
  std::lock_guard lock(mutex);
  if (bytes > size) { // the old row stays: another call may be reading it
    row = memset(allocate_pages(2 * bytes).data, 0, 2 * bytes);
    size = 2 * bytes;
  }
  return row;
}

} // namespace retouch
