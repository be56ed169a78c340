// A parallel loop with dynamic scheduling on the OpenMP pool that PyTorch uses as well.
#pragma once
#include "runtime.h"
#include "simd.h"

namespace retouch::RETOUCH_NS {

// Runs body(task) for tasks 0 .. tasks-1. The team is always `threads` wide (or one): changing the
// size of the team between calls makes the runtime end and restart its threads.
template <class Body>
static void parallel(int threads, int64_t tasks, const Body& body) {
  if (threads <= 1 || tasks <= 1) {
    for (int64_t i = 0; i < tasks; ++i) body(i);
    return;
  }
  int64_t next = 0;
#pragma omp parallel num_threads(threads)
  for (int64_t i; (i = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED)) < tasks;) body(i);
}

} // namespace retouch::RETOUCH_NS
