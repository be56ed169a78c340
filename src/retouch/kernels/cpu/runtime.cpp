#include "runtime.h"

#include "system.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>
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

// Memory on ordinary pages that is there before it is asked for: touching it first costs several
// times what writing to it does. Once a burst of requests is over, a thread brings as much in as
// they took.
class Ready {
 public:
  // {nullptr, 0} where there is none.
  Span take(size_t size) {
    std::lock_guard lock(mutex);
    if (!started) std::thread(&Ready::work, this).detach();
    started = true;
    burst += size;
    last = Clock::now();
    wake.notify_one();
    for (Span& block : blocks)
      if (block.bytes >= size) {
        Span found{block.data, size};
        block = {static_cast<char*>(block.data) + size, block.bytes - size};
        return found;
      }
    return {nullptr, 0};
  }

  size_t release() {
    std::lock_guard lock(mutex);
    size_t before = 0;
    for (Span block : blocks) {
      before += block.bytes;
      if (block.bytes) unmap_memory(block.data, block.bytes);
    }
    blocks.clear();
    return before;
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr auto pause = std::chrono::milliseconds(100);
  static constexpr size_t most = size_t(64) << 20, piece = size_t(1) << 20;

  void work() {
    std::unique_lock lock(mutex);
    for (;;) {
      wake.wait(lock, [&] { return burst > 0; });
      for (auto end = last + pause; Clock::now() < end; end = last + pause) {
        lock.unlock();
        std::this_thread::sleep_until(end);
        lock.lock();
      }
      size_t wanted = burst < most ? burst : most, there = 0;
      burst = 0;
      std::erase_if(blocks, [](Span block) { return !block.bytes; });
      for (Span block : blocks) there += block.bytes;
      if (there < wanted) fill(lock, (wanted - there + piece - 1) / piece * piece);
    }
  }

  // Stops when somebody asks for memory: what is there by then stays.
  void fill(std::unique_lock<std::mutex>& lock, size_t bytes) {
    lock.unlock();
    char* data = nullptr;
    try {
      data = static_cast<char*>(map_memory(bytes, false));
    } catch (const std::bad_alloc&) {
    }
    size_t touched = 0;
    lock.lock();
    for (; data && touched < bytes && !burst; touched += piece) {
      lock.unlock();
      touch_memory(data + touched, piece);
      lock.lock();
    }
    if (touched) blocks.push_back({data, touched});
    if (data && touched < bytes) unmap_memory(data + touched, bytes - touched);
  }

  std::mutex mutex;
  std::condition_variable wake;
  std::vector<Span> blocks;
  size_t burst = 0; // bytes that were asked for since it was filled
  Clock::time_point last;
  bool started = false;
};

// Never destroyed, like the reserve; a child that was forked begins anew, without its thread.
std::atomic<Ready*> ready_memory{nullptr};

Ready& ready() {
  static std::once_flag once;
  std::call_once(once, [] {
    ready_memory = new Ready;
    after_fork([] { ready_memory = new Ready; });
  });
  return *ready_memory;
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
  bool kept = size >= smallest_kept; // and a multiple of any system's pages
  Span found = kept ? reserve().take(size) : Span{nullptr, 0};
  if (kept && !found.data && !huge && mappings_split) found = ready().take(size);
  return found.data ? found : Span{map_memory(size, huge), size};
}

void free_pages(Span pages) {
  if (pages.bytes >= smallest_kept)
    reserve().keep(pages);
  else
    unmap_memory(pages.data, pages.bytes);
}

size_t release_pages() {
  return reserve().release() + (mappings_split ? ready().release() : 0);
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
