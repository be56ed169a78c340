#include "runtime.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

namespace retouch {

namespace {

constexpr size_t huge_page = size_t(2) << 20;
constexpr size_t smallest_kept = size_t(256) << 10;

// Whole huge pages where that wastes little.
size_t mapping_size(size_t bytes) {
  size_t unit = bytes >= 16 * huge_page ? huge_page : bytes >= smallest_kept ? 65536 : 4096;
  return (bytes + unit - 1) / unit * unit;
}

Span map_pages(size_t size, bool huge) {
  size_t slack = huge && size >= huge_page ? huge_page : 0;
  char* base = static_cast<char*>(
      mmap(nullptr, size + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (base == MAP_FAILED) throw std::bad_alloc();
  if (!slack) return {base, size};
  size_t head = (huge_page - reinterpret_cast<uintptr_t>(base) % huge_page) % huge_page;
  if (head) munmap(base, head);
  if (slack - head) munmap(base + head + size, slack - head);
  madvise(base + head, size, MADV_HUGEPAGE);
  return {base + head, size};
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
      munmap(blocks[gone].data, blocks[gone].bytes);
      total -= blocks[gone++].bytes;
    }
    blocks.erase(blocks.begin(), blocks.begin() + ptrdiff_t(gone));
  }

  std::mutex mutex;
  std::vector<Span> blocks;
  size_t total = 0;
  const size_t limit = size_t(sysconf(_SC_PHYS_PAGES)) * size_t(sysconf(_SC_PAGE_SIZE)) / 8;
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
  return found.data ? found : map_pages(size, huge);
}

void free_pages(Span pages) {
  if (pages.bytes >= smallest_kept)
    reserve().keep(pages);
  else
    munmap(pages.data, pages.bytes);
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
