#pragma once

#include <atomic>
#include <cstddef>
#include <mutex>

namespace retouch {

// What differs between operating systems. Memory is of zeros; if `huge`, that of a huge page or
// more is aligned to these, and on them where the system has them.
constexpr size_t huge_page = size_t(2) << 20;

// Whether parts of a mapping can be unmapped.
#ifdef _WIN32
constexpr bool mappings_split = false;
#else
constexpr bool mappings_split = true;
#endif

void* map_memory(size_t bytes, bool huge);
void unmap_memory(void* data, size_t bytes);
// Brings memory in that was never touched, so that the first to write to it need not wait.
void touch_memory(void* data, size_t bytes);
size_t physical_memory();

// Calls `begin` in every child that is forked, where there are such.
void after_fork(void (*begin)());

// The one T of a process, never destroyed: its threads live until the process ends, and handles may
// outlive static objects. A child that was forked has none of the threads, and begins anew.
template <class T>
T& of_process() {
  static std::atomic<T*> made{nullptr};
  static std::once_flag once;
  std::call_once(once, [] {
    made = new T;
    after_fork([] { made = new T; });
  });
  return *made;
}

} // namespace retouch
