// Giving up Python's global interpreter lock. Included by the files of csrc/bind alone.
#pragma once

#include <Python.h>

#include <chrono>
#include <thread>

#include "gemm/verbose.h"

namespace octavo {

// Gives up the GIL for its lifetime.
//
// A daemon thread that wants the GIL back while the interpreter exits does not get it: up to Python 3.13 the thread is
// ended by pthread_exit. With glibc that unwinds the stack, as an exception does: it would end the whole process in the
// first destructor it meets, or else release Python objects without the GIL. So the thread stays here until the process
// ends, which is what Python itself does with it from 3.14 on.
class GilReleased {
 public:
  GilReleased() : state_(PyEval_SaveThread()) {}
  ~GilReleased() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {  // glibc's unwinding, which no handler may end
      for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    }
  }
  GilReleased(const GilReleased&) = delete;
  GilReleased& operator=(const GilReleased&) = delete;

 private:
  PyThreadState* state_;
};

// Multiply-adds from which a call gives up the GIL. Giving it up and taking it back costs about 50 ns, and several
// microseconds where another thread wants it; the work below this takes less than that.
inline constexpr double kReleaseGilWork = 65536;

// Logs what this thread's products have reported; needs the GIL.
void hand_over_reports();

template <class Work>
void without_gil(double multiply_adds, const Work& work) {
  if (multiply_adds < kReleaseGilWork) {
    work();
  } else {
    const GilReleased released;
    work();
  }
  if (verbosity() == Verbosity::kKept) hand_over_reports();
}

}  // namespace octavo
