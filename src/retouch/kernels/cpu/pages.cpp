#include "pages.h"

#include "system.h"

#include <chrono>
#include <condition_variable>
#include <iterator>
#include <map>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

namespace retouch {

namespace {

constexpr size_t smallest_kept = size_t(256) << 10;
constexpr size_t kept_unit = size_t(64) << 10; // a multiple of any system's pages

// Whole huge pages where that wastes little.
size_t mapping_size(size_t bytes) {
  size_t unit = bytes >= 16 * huge_page ? huge_page : bytes >= smallest_kept ? kept_unit : 4096;
  return (bytes + unit - 1) / unit * unit;
}

// Freed blocks, oldest first.
class Reserve {
 public:
  // The smallest block that is not much larger; nullptr if there is none.
  void* take(size_t& size) {
    std::lock_guard lock(mutex);
    size_t best = blocks.size();
    for (size_t i = blocks.size(); i-- > 0;)
      if (blocks[i].bytes >= size && blocks[i].bytes <= size + size / 8 &&
          (best == blocks.size() || blocks[i].bytes < blocks[best].bytes))
        best = i;
    if (best == blocks.size()) return nullptr;
    Block found = blocks[best];
    blocks.erase(blocks.begin() + ptrdiff_t(best));
    total -= found.bytes;
    size = found.bytes;
    return found.data;
  }

  void keep(void* data, size_t bytes) {
    std::lock_guard lock(mutex);
    blocks.push_back({data, bytes});
    total += bytes;
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
    size_t bytes;
  };

  void shrink(size_t most) {
    size_t gone = 0;
    while (total > most) {
      unmap_memory(blocks[gone].data, blocks[gone].bytes);
      total -= blocks[gone++].bytes;
    }
    blocks.erase(blocks.begin(), blocks.begin() + ptrdiff_t(gone));
  }

  std::mutex mutex;
  std::vector<Block> blocks;
  size_t total = 0;
  const size_t limit = physical_memory() / 8;
};

// Ordinary pages that are there: freed ones, and others that a thread brings in after a burst of
// requests. Neighbours are one block, and requests take a part of one.
class Ready {
 public:
  // nullptr where there is no block as large.
  void* take(size_t size) {
    std::lock_guard lock(mutex);
    if (!started) std::thread(&Ready::work, this).detach();
    started = true;
    burst += size;
    last = Clock::now();
    wake.notify_one();
    auto best = blocks.end();
    for (auto it = blocks.begin(); it != blocks.end(); ++it)
      if (it->second >= size && (best == blocks.end() || it->second < best->second)) best = it;
    if (best == blocks.end()) return nullptr;
    auto [data, bytes] = *best;
    blocks.erase(best);
    if (bytes > size) blocks[data + size] = bytes - size;
    total -= size;
    return data;
  }

  void keep(char* data, size_t bytes) {
    std::lock_guard lock(mutex);
    if (total + bytes > limit)
      unmap_memory(data, bytes);
    else
      add(data, bytes);
  }

  size_t release() {
    std::lock_guard lock(mutex);
    size_t before = total;
    for (auto [data, bytes] : blocks) unmap_memory(data, bytes);
    blocks.clear();
    total = 0;
    return before;
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr auto pause = std::chrono::milliseconds(100);
  static constexpr size_t most = size_t(64) << 20, piece = size_t(1) << 20;

  void add(char* data, size_t bytes) {
    total += bytes;
    auto after = blocks.lower_bound(data);
    if (after != blocks.end() && after->first == data + bytes) {
      bytes += after->second;
      after = blocks.erase(after);
    }
    if (after != blocks.begin()) {
      auto before = std::prev(after);
      if (before->first + before->second == data) {
        before->second += bytes;
        return;
      }
    }
    blocks[data] = bytes;
  }

  void work() {
    std::unique_lock lock(mutex);
    for (;;) {
      wake.wait(lock, [&] { return burst > 0; });
      for (auto end = last + pause; Clock::now() < end; end = last + pause) {
        lock.unlock();
        std::this_thread::sleep_until(end);
        lock.lock();
      }
      size_t wanted = burst < most ? burst : most;
      burst = 0;
      if (total < wanted) fill(lock, (wanted - total + piece - 1) / piece * piece);
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
    lock.lock();
    if (!data) return;
    size_t touched = 0;
    for (; touched < bytes && !burst; touched += piece) {
      lock.unlock();
      touch_memory(data + touched, piece);
      lock.lock();
    }
    if (touched) add(data, touched);
    if (touched < bytes) unmap_memory(data + touched, bytes - touched);
  }

  std::mutex mutex;
  std::condition_variable wake;
  std::map<char*, size_t> blocks;
  size_t total = 0;
  size_t burst = 0; // bytes that were asked for since it was filled
  Clock::time_point last;
  bool started = false;
  const size_t limit = physical_memory() / 64;
};

// Never destroyed: handles may outlive static objects when the interpreter ends.
Reserve& reserve() {
  static Reserve* blocks = new Reserve;
  return *blocks;
}

Ready& ready() {
  return of_process<Ready>();
}

} // namespace

Span allocate_pages(size_t bytes, bool huge) {
  huge = huge || !mappings_split;
  size_t size = mapping_size(bytes ? bytes : 1);
  void* found = nullptr;
  if (size >= smallest_kept) found = huge ? reserve().take(size) : ready().take(size);
  return {found ? found : map_memory(size, huge), size, huge};
}

void free_pages(Span pages) {
  if (pages.bytes < smallest_kept)
    unmap_memory(pages.data, pages.bytes);
  else if (pages.huge)
    reserve().keep(pages.data, pages.bytes);
  else
    ready().keep(static_cast<char*>(pages.data), pages.bytes);
}

size_t release_pages() {
  return reserve().release() + ready().release();
}

} // namespace retouch
