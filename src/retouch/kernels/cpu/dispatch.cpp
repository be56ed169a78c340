#include "dispatch.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>
#ifdef RETOUCH_ARM
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace retouch {

namespace portable {
extern const KernelTable table;
}
#ifdef RETOUCH_X86
namespace avx2 {
extern const KernelTable table;
}
namespace avxvnni {
extern const KernelTable table;
}
namespace avx512 {
extern const KernelTable table;
}
#endif
#ifdef RETOUCH_ARM
namespace dotprod {
extern const KernelTable table;
}
#endif

namespace {

std::vector<const KernelTable*> runnable() {
  std::vector<const KernelTable*> found;
#ifdef RETOUCH_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni"))
    found.push_back(&avx512::table);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c")) {
    if (__builtin_cpu_supports("avxvnni")) found.push_back(&avxvnni::table);
    found.push_back(&avx2::table);
  }
#endif
#ifdef RETOUCH_ARM
  if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) found.push_back(&dotprod::table);
#endif
  found.push_back(&portable::table);
  return found;
}

const KernelTable* find(const std::string& name) {
  std::string known;
  for (const KernelTable* table : runnable()) {
    if (name == table->isa) return table;
    known += known.empty() ? table->isa : std::string(", ") + table->isa;
  }
  throw std::invalid_argument("instruction set '" + name + "' is not available here; choose from " +
                              known);
}

std::atomic<const KernelTable*>& current() {
  static std::atomic<const KernelTable*> table{getenv("RETOUCH_ISA") ? find(getenv("RETOUCH_ISA"))
                                                                     : runnable().front()};
  return table;
}

std::atomic<int> thread_count{1};

} // namespace

const KernelTable& kernels() {
  return *current().load(std::memory_order_relaxed);
}

void set_isa(const std::string& name) {
  current() = find(name);
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const KernelTable* table : runnable()) names.push_back(table->isa);
  return names;
}

int threads() {
  return thread_count.load(std::memory_order_relaxed);
}

void set_threads(int count) {
  if (count < 1) throw std::invalid_argument("the number of threads must be at least 1");
  thread_count = count;
}

} // namespace retouch
