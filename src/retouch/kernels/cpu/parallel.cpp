#include "parallel.h"

#include "system.h"

#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace retouch {

namespace {

using Clock = std::chrono::steady_clock;

// How long a thread looks for work, or a call for its last tasks, before it sleeps: longer than
// what lies between two kernels of a schedule, shorter than what another program would miss.
constexpr auto patience = std::chrono::microseconds(100);

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Whether `done` came true in time.
template <class Done>
bool spin(const Done& done) {
  for (Clock::time_point end = Clock::now() + patience; Clock::now() < end;)
    for (int i = 0; i < 32; ++i) {
      if (done()) return true;
      relax();
    }
  return done();
}

class Pool {
 public:
  // False when another call has the pool.
  bool run(int threads, uint32_t count, void (*task)(const void*, int64_t), const void* context) {
    std::unique_lock lock(calls, std::try_to_lock);
    if (!lock) return false;
    for (; started < threads - 1; ++started) std::thread(&Pool::work, this, started).detach();
    this->task.store(task, std::memory_order_relaxed);
    this->context.store(context, std::memory_order_relaxed);
    this->count.store(count, std::memory_order_relaxed);
    team.store(threads - 1, std::memory_order_relaxed);
    undone.store(count, std::memory_order_relaxed);
    uint64_t call = (left.load(std::memory_order_relaxed) >> 32) + 1;
    left.store(call << 32 | count, std::memory_order_release);
    calls_made.fetch_add(1, std::memory_order_seq_cst);
    if (asleep.load(std::memory_order_seq_cst)) calls_made.notify_all();
    while (take()) {
    }
    auto done = [&] { return undone.load(std::memory_order_acquire) == 0; };
    if (!spin(done))
      for (uint32_t n; (n = undone.load(std::memory_order_acquire));) undone.wait(n);
    return true;
  }

 private:
  // Does one task of the present call; false when none is left. What is read of the call is that of
  // the task that is taken: it changes only when no task is left, and then `left` has another
  // number.
  bool take() {
    uint64_t seen = left.load(std::memory_order_acquire);
    while (uint32_t(seen)) {
      auto task = this->task.load(std::memory_order_relaxed);
      auto context = this->context.load(std::memory_order_relaxed);
      int64_t i = int64_t(count.load(std::memory_order_relaxed)) - uint32_t(seen);
      if (!left.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel)) continue;
      task(context, i);
      if (undone.fetch_sub(1, std::memory_order_acq_rel) == 1) undone.notify_one();
      return true;
    }
    return false;
  }

  void work(int number) {
    for (;;) {
      uint32_t seen = calls_made.load(std::memory_order_seq_cst);
      if (number < team.load(std::memory_order_relaxed))
        while (take()) {
        }
      auto called = [&] { return calls_made.load(std::memory_order_relaxed) != seen; };
      if (spin(called)) continue;
      asleep.fetch_add(1, std::memory_order_seq_cst);
      calls_made.wait(seen, std::memory_order_seq_cst);
      asleep.fetch_sub(1, std::memory_order_seq_cst);
    }
  }

  std::mutex calls;
  int started = 0;
  std::atomic<void (*)(const void*, int64_t)> task{};
  std::atomic<const void*> context{};
  std::atomic<uint32_t> count{}, undone{}, calls_made{};
  std::atomic<int> team{}, asleep{};
  std::atomic<uint64_t> left{}; // number of the call, and how many of its tasks nobody has taken
};

} // namespace

void run_tasks(int threads, int64_t count, void (*task)(const void*, int64_t),
               const void* context) {
  if (count <= UINT32_MAX && of_process<Pool>().run(threads, uint32_t(count), task, context))
    return;
  for (int64_t i = 0; i < count; ++i) task(context, i);
}

} // namespace retouch
