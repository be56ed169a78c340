#include "calls.h"

#include <chrono>

namespace retouch {

namespace {

// Ends a long run when the user asks for it: Python sees signals in its main thread only.
class Signals {
 public:
  explicit Signals(unsigned long main) : here(PyThread_get_thread_ident() == main) {}

  void look() {
    if (!here || Clock::now() - last < std::chrono::milliseconds(100)) return;
    nb::gil_scoped_acquire acquire;
    if (PyErr_CheckSignals()) throw nb::python_error();
    last = Clock::now();
  }

 private:
  using Clock = std::chrono::steady_clock;
  bool here;
  Clock::time_point last = Clock::now();
};

unsigned long main_thread() {
  return nb::cast<unsigned long>(
      nb::module_::import_("threading").attr("main_thread")().attr("ident"));
}

} // namespace

thread_local Calls* Calls::open = nullptr;

void Calls::add(nb::callable kernel, nb::tuple arguments) {
  struct Opened {
    explicit Opened(Calls* calls) { open = calls; }
    ~Opened() { open = nullptr; }
  };
  size_t before = list.size();
  {
    Opened opened(this);
    kernel(*arguments);
  }
  if (list.size() != before + 1) {
    list.resize(before);
    throw nb::type_error("Calls.add: expected a kernel");
  }
  held.push_back(std::move(arguments));
}

void Calls::run() const {
  Signals signals(main_thread());
  Unlocked unlocked;
  for (const auto& call : list) {
    call();
    signals.look();
  }
}

} // namespace retouch
