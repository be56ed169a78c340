#include "unlocked.h"

#include <atomic>
#include <chrono>
#include <thread>

namespace retouch {

namespace {

using namespace std::chrono_literals;

std::atomic<int> inside{0};
std::atomic<bool> ended{false};
std::thread::id main_thread; // once it has ended

} // namespace

Unlocked::Unlocked() : state(PyEval_SaveThread()) {
  inside.fetch_add(1, std::memory_order_relaxed);
}

Unlocked::~Unlocked() {
  while (ended.load(std::memory_order_acquire) && std::this_thread::get_id() != main_thread)
    std::this_thread::sleep_for(1h);
  inside.fetch_sub(1, std::memory_order_relaxed);
  PyEval_RestoreThread(state);
}

void python_ends() {
  main_thread = std::this_thread::get_id();
  ended.store(true, std::memory_order_release);
  {
    Unlocked unlocked; // those that wait for the lock already get it once more
    std::this_thread::sleep_for(10ms);
  }
  if (inside.load()) nanobind::set_leak_warnings(false);
}

} // namespace retouch
