// A small thread pool for loops with independent iterations. It knows nothing of matrices.
//
// What it does: parallel_for(count, body) runs body(0) .. body(count - 1), each once, on the calling thread and up to
// num_threads() - 1 workers, and returns when all are done. Iterations are handed out one at a time, so that a slow
// core takes fewer. What it refuses to do: nest, queue, or wait for another caller. A loop inside a loop, and one of a
// caller that finds the pool busy with another's, runs its iterations on its own thread. Workers start at first use,
// and again on demand in a child process after fork.
#pragma once

#include <cstdint>

namespace octavo {

// Refers to a callable without owning it; the callable must outlive the call.
class IndexFunction {
 public:
  template <class F>
  IndexFunction(const F& f)  // implicit on purpose: parallel_for(n, [&](std::int64_t i) { ... })
      : object_(&f), call_([](const void* object, std::int64_t i) { (*static_cast<const F*>(object))(i); }) {}
  void operator()(std::int64_t i) const { call_(object_, i); }

 private:
  const void* object_;
  void (*call_)(const void*, std::int64_t);
};

inline constexpr int kMaxThreads = 4096;

// Threads that parallel_for uses, the caller included. Starts as OCTAVO_NUM_THREADS (std::invalid_argument where that
// is not a number from 1 to kMaxThreads), else as available_cpus() of cpus.h. Inside a loop of several threads it is 1,
// and always where the build has no threads.
int num_threads();
void set_num_threads(int n);  // 1 to kMaxThreads; takes effect with the next parallel_for

// An exception thrown by `body` (no memory for a thread's workspace) ends the loop: iterations that have not begun are
// skipped, and the first exception is rethrown here once no thread is inside `body`.
void parallel_for(std::int64_t count, IndexFunction body);

// The same where the loop is worth sharing; else all iterations on the calling thread.
inline void parallel_for_if(bool worth_sharing, std::int64_t count, IndexFunction body) {
  if (worth_sharing) return parallel_for(count, body);
  for (std::int64_t i = 0; i < count; ++i) body(i);
}

}  // namespace octavo
