// Kernel calls that need no interpreter once Python has given their arguments: made at once, or
// kept in a list that is run in one go.
#pragma once
#include "arguments.h"
#include "unlocked.h"

#include <concepts>
#include <functional>
#include <tuple>

namespace retouch {

// An argument of a kernel: as Python gives it, and as a call holds it.
template <class T>
struct Given {
  using Python = T;
  T value;
  T get() const { return value; }
};

template <class T>
struct Given<const T&> {
  using Python = const T&;
  const T* value;
  explicit Given(const T& handle) : value(&handle) {}
  const T& get() const { return *value; }
};

template <std::derived_from<List> T>
struct Given<const T&> {
  using Python = nb::handle;
  T value;
  explicit Given(nb::handle list) : value(list) {}
  const T& get() const { return value; }
};

// Kernel calls in order. Handles among their arguments may be pointed to other memory between runs:
// all is checked at each of them.
class Calls {
 public:
  // A kernel of this module, and its arguments, which the list holds.
  void add(nb::callable kernel, nb::tuple arguments);
  // Without the interpreter's lock, but for a look at signals now and then.
  void run() const;
  size_t size() const { return list.size(); }

  // Makes a call; while a list is added to, it is put there instead.
  template <class Call>
  static void make(Call&& call) {
    if (open) {
      open->list.emplace_back(std::forward<Call>(call));
      return;
    }
    Unlocked unlocked;
    call();
  }

 private:
  static thread_local Calls* open;
  std::vector<std::function<void()>> list;
  std::vector<nb::tuple> held;
};

// A function of the module that makes the call.
template <class... A, class... Extra>
void bind(nb::module_& m, const char* name, void (*kernel)(A...), const Extra&... extra) {
  m.def(
      name,
      [kernel](typename Given<A>::Python... given) {
        Calls::make([kernel, held = std::tuple<Given<A>...>(Given<A>{given}...)] {
          std::apply([kernel](const auto&... each) { kernel(each.get()...); }, held);
        });
      },
      extra...);
}

} // namespace retouch
