#include "fingerprint.h"

#include "parallel.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace retouch {

namespace {

constexpr size_t line = 64;
constexpr size_t chunk_lines = 1024;
constexpr uint64_t odd = 0x9e3779b97f4a7c15ull; // 2^64 divided by the golden ratio

uint64_t rotate(uint64_t x, int by) {
  return x << by | x >> (64 - by);
}

uint64_t avalanche(uint64_t x) {
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93ull;
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93ull;
  return x ^ x >> 32;
}

// Eight independent chains, each step of which is a bijection of the state: a change of one word
// always changes the result.
struct Lanes {
  uint64_t h[8];

  explicit Lanes(uint64_t seed) {
    for (int i = 0; i < 8; ++i) h[i] = avalanche(seed * 8 + uint64_t(i) + odd);
  }

  void add(const char* p) {
    uint64_t w[8];
    memcpy(w, p, line);
    for (int i = 0; i < 8; ++i) h[i] = rotate((h[i] ^ w[i]) * odd, 29);
  }

  uint64_t finish() const {
    uint64_t sum = 0;
    for (int i = 0; i < 8; ++i) sum = avalanche(sum * 31 + h[i]);
    return sum;
  }
};

uint64_t hash_lines(const char* data, size_t first, size_t last, size_t stride, uint64_t seed) {
  Lanes lanes(seed);
  for (size_t i = first; i < last; ++i) {
    if (stride > 1 && i + 16 < last) __builtin_prefetch(data + (i + 16) * stride * line);
    lanes.add(data + i * stride * line);
  }
  return lanes.finish();
}

uint64_t hash_tail(const char* data, size_t bytes) {
  Lanes lanes(bytes);
  char padded[line] = {};
  if (bytes >= line) {
    lanes.add(data + bytes - line);
  } else {
    memcpy(padded, data, bytes);
    lanes.add(padded);
  }
  return lanes.finish();
}

} // namespace

uint64_t mix_fingerprints(uint64_t a, uint64_t b) {
  return avalanche(a * 31 + rotate(b, 17) + odd);
}

uint64_t fingerprint(const void* memory, size_t bytes, int64_t stride, int threads) {
  const char* data = static_cast<const char*>(memory);
  if (!bytes) return mix_fingerprints(0, 0);
  size_t step = size_t(std::max<int64_t>(stride, 1));
  size_t lines = (bytes / line + step - 1) / step;
  size_t chunks = (lines + chunk_lines - 1) / chunk_lines;
  uint64_t hash = hash_tail(data, bytes);
  if (chunks <= 1) return mix_fingerprints(hash, hash_lines(data, 0, lines, step, 0));
  std::vector<uint64_t> parts(chunks);
  int team = chunks * chunk_lines * line < (1 << 20) ? 1 : threads;
  parallel_each(team, int64_t(chunks), [&](int64_t chunk) {
    size_t i = size_t(chunk), end = std::min(lines, (i + 1) * chunk_lines);
    parts[i] = hash_lines(data, i * chunk_lines, end, step, uint64_t(i));
  });
  for (uint64_t part : parts) hash = mix_fingerprints(hash, part);
  return hash;
}

} // namespace retouch
