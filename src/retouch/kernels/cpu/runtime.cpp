#include "runtime.h"

#include "system.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <vector>

namespace retouch {

namespace {

size_t mapping_size(size_t bytes) {
  size_t unit = bytes >= huge_page ? huge_page : 4096;
  return (bytes + unit - 1) / unit * unit;
}

// Freed blocks, oldest first.
class Reserve {
 public:
  void* take(size_t size) {
    std::lock_guard lock(mutex);
    for (size_t i = blocks.size(); i-- > 0;)
      if (blocks[i].size == size) {
        void* data = blocks[i].data;
        blocks.erase(blocks.begin() + ptrdiff_t(i));
        total -= size;
        return data;
      }
    return nullptr;
  }

  void keep(void* data, size_t size) {
    std::lock_guard lock(mutex);
    blocks.push_back({data, size});
    total += size;
    shrink(limit);
  }

  size_t release() {
    std::lock_guard lock(mutex);
    size_t before = total;
    shrink(0);
    return before;
  }

 private:
  struct Block {
    void* data;
    size_t size;
  };

  void shrink(size_t most) {
    size_t gone = 0;
    while (total > most) {
      unmap_memory(blocks[gone].data, blocks[gone].size);
      total -= blocks[gone++].size;
    }
    blocks.erase(blocks.begin(), blocks.begin() + ptrdiff_t(gone));
  }

  std::mutex mutex;
  std::vector<Block> blocks;
  size_t total = 0;
  const size_t limit = physical_memory() / 8;
};

// Never destroyed: handles may outlive static objects when the interpreter ends.
Reserve& reserve() {
  static Reserve* blocks = new Reserve;
  return *blocks;
}

struct Scratch {
  void* data = nullptr;
  size_t bytes = 0;

  ~Scratch() {
    if (data) free_pages(data, bytes);
  }

  void* reserve(size_t wanted) {
    if (wanted > bytes) {
      if (data) free_pages(data, bytes);
      data = nullptr;
      bytes = 0;
      data = allocate_pages(wanted);
      bytes = wanted;
    }
    return data;
  }
};

} // namespace

void* allocate_pages(size_t bytes) {
  size_t size = mapping_size(bytes ? bytes : 1);
  void* data = size >= huge_page ? reserve().take(size) : nullptr;
  return data ? data : map_memory(size);
}

void free_pages(void* data, size_t bytes) {
  size_t size = mapping_size(bytes ? bytes : 1);
  if (size >= huge_page)
    reserve().keep(data, size);
  else
    unmap_memory(data, size);
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
    row = memset(allocate_pages(2 * bytes), 0, 2 * bytes);
    size = 2 * bytes;
  }
  return row;
}

} // namespace retouch
