#include "runtime.h"

#include "pages.h"
#include "system.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>

namespace retouch {

namespace {

struct Scratch {
  Span pages{nullptr, 0, true};

  ~Scratch() {
    if (pages.data) free_pages(pages);
  }

  void* reserve(size_t wanted) {
    if (wanted > pages.bytes) {
      if (pages.data) free_pages(pages);
      pages = {nullptr, 0, true};
      pages = allocate_pages(wanted);
    }
    return pages.data;
  }
};

} // namespace

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
