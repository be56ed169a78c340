// 64-bit content hash of memory.
#pragma once
#include <cstddef>
#include <cstdint>

namespace retouch {

// stride > 1 reads one 64-byte line in `stride`, the first and the last always.
uint64_t fingerprint(const void* data, size_t bytes, int64_t stride, int threads);

uint64_t mix_fingerprints(uint64_t a, uint64_t b);

} // namespace retouch
