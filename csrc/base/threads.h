// Locks and forks, where the system has them.
//
// A build with OCTAVO_NO_THREADS (WebAssembly) has one thread: its locks do nothing, and the loops of thread_pool.h run
// where they are called. Code outside base/ uses these names in place of the standard ones, and so compiles for both.
#pragma once

#include <mutex>

#if (defined(__unix__) || defined(__APPLE__)) && !defined(OCTAVO_NO_THREADS)
#define OCTAVO_CAN_FORK 1
#include <pthread.h>
#endif

namespace octavo {

#if defined(OCTAVO_NO_THREADS)
class Mutex {
 public:
  void lock() {}
  void unlock() {}
  bool try_lock() { return true; }
};
#else
using Mutex = std::mutex;
#endif
using Lock = std::lock_guard<Mutex>;

// Calls `prepare` before each fork of this process, and one of the others after it, on either side. Of several, those
// registered last prepare first. So the lock of loops, which is registered at the first of them, is taken before locks
// that are registered when the module is loaded: the body of a loop may be about to take one of them. Returns true, for
// constants that register.
inline bool at_fork([[maybe_unused]] void (*prepare)(), [[maybe_unused]] void (*in_parent)(),
                    [[maybe_unused]] void (*in_child)()) {
#if defined(OCTAVO_CAN_FORK)
  pthread_atfork(prepare, in_parent, in_child);
#endif
  return true;
}

}  // namespace octavo
