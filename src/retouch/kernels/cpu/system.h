#pragma once

#include <cstddef>

namespace retouch {

// What differs between operating systems. Memory is of zeros, aligned to `huge_page` if it has as
// many bytes, and on huge pages where the system is asked for them.
constexpr size_t huge_page = size_t(2) << 20;

void* map_memory(size_t bytes);
void unmap_memory(void* data, size_t bytes);
size_t physical_memory();

// Calls `begin` in every child that is forked, where there are such.
void after_fork(void (*begin)());

} // namespace retouch
