// Kernels run without the interpreter's lock.
#pragma once
#include <nanobind/nanobind.h>

namespace retouch {

// Lets Python's other threads run while it lives. Where Python has ended in the meantime, a thread
// other than its main one stays here for good: it would be unwound when it asks for the lock, for
// which there is no way through the frames below.
class Unlocked {
 public:
  Unlocked();
  ~Unlocked();
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;

 private:
  PyThreadState* state;
};

// To be called by Python's main thread when it ends. What threads hold that stay is not told as
// leaked.
void python_ends();

} // namespace retouch
