// Parallel loops on one pool of threads, shared by the kernels of every instruction set.
#pragma once
#include <cstdint>

namespace retouch {

// Runs task(context, i) for i in 0 .. count-1 on up to `threads` threads, the calling one among
// them. It waits for tasks, not for threads: one that the system has not scheduled holds up no
// call, so a machine that is busy with other things costs no more than their share. Where the pool
// is taken, by a call of another thread or the one that this is part of, the calling thread does
// all.
void run_tasks(int threads, int64_t count, void (*task)(const void*, int64_t), const void* context);

template <class Body>
static void parallel(int threads, int64_t count, const Body& body) {
  if (threads <= 1 || count <= 1) {
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  auto task = [](const void* context, int64_t i) { (*static_cast<const Body*>(context))(i); };
  run_tasks(threads, count, task, &body);
}

// Runs body(i) for i in 0 .. count-1, each thread many in a row.
template <class Body>
static void parallel_each(int threads, int64_t count, const Body& body) {
  int64_t run = threads <= 1 ? count : count / (threads * 4) + 1;
  parallel(threads, run ? (count + run - 1) / run : 0, [&](int64_t part) {
    for (int64_t i = part * run; i < (part + 1) * run && i < count; ++i) body(i);
  });
}

} // namespace retouch
