#include "system.h"

#include <cstdint>
#include <new>

#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace retouch {

namespace {

constexpr size_t page = 4096; // or more

void touch_pages(void* data, size_t bytes) {
  for (size_t i = 0; i < bytes; i += page) static_cast<volatile char*>(data)[i] = 0;
}

} // namespace

#ifdef _WIN32

namespace {

// A reservation can only be given back whole, so that its aligned part is found by asking again.
void* aligned(size_t bytes) {
  for (int attempt = 0; attempt < 16; ++attempt) {
    void* room = VirtualAlloc(nullptr, bytes + huge_page, MEM_RESERVE, PAGE_NOACCESS);
    if (!room) return nullptr;
    uintptr_t start = (reinterpret_cast<uintptr_t>(room) + huge_page - 1) / huge_page * huge_page;
    VirtualFree(room, 0, MEM_RELEASE);
    void* data = VirtualAlloc(reinterpret_cast<void*>(start), bytes, MEM_RESERVE | MEM_COMMIT,
                              PAGE_READWRITE);
    if (data) return data; // else another thread was faster
  }
  return nullptr;
}

} // namespace

void* map_memory(size_t bytes, bool huge) {
  void* data = huge && bytes >= huge_page
                   ? aligned(bytes)
                   : VirtualAlloc(nullptr, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
  if (!data) throw std::bad_alloc();
  return data;
}

void unmap_memory(void* data, size_t) {
  VirtualFree(data, 0, MEM_RELEASE);
}

void touch_memory(void* data, size_t bytes) {
  touch_pages(data, bytes);
}

size_t physical_memory() {
  MEMORYSTATUSEX status{};
  status.dwLength = sizeof(status);
  GlobalMemoryStatusEx(&status);
  return size_t(status.ullTotalPhys);
}

void after_fork(void (*)()) {}

#else

void* map_memory(size_t bytes, bool huge) {
  size_t slack = huge && bytes >= huge_page ? huge_page : 0;
  char* base = static_cast<char*>(
      mmap(nullptr, bytes + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (base == MAP_FAILED) throw std::bad_alloc();
  if (!slack) return base;
  size_t head = (huge_page - reinterpret_cast<uintptr_t>(base) % huge_page) % huge_page;
  if (head) munmap(base, head);
  if (slack - head) munmap(base + head + bytes, slack - head);
#ifdef MADV_HUGEPAGE
  madvise(base + head, bytes, MADV_HUGEPAGE);
#endif
  return base + head;
}

void unmap_memory(void* data, size_t bytes) {
  munmap(data, bytes);
}

void touch_memory(void* data, size_t bytes) {
#ifdef MADV_POPULATE_WRITE
  if (madvise(data, bytes, MADV_POPULATE_WRITE) == 0) return; // Linux 5.14 and newer
#endif
  touch_pages(data, bytes);
}

size_t physical_memory() {
  return size_t(sysconf(_SC_PHYS_PAGES)) * size_t(sysconf(_SC_PAGE_SIZE));
}

void after_fork(void (*begin)()) {
  pthread_atfork(nullptr, nullptr, begin);
}

#endif

} // namespace retouch
