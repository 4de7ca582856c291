// The CPUs that threads run on: how many there are to use, and which of them a sleeping thread wakes on.
#pragma once

#include <thread>
#include <vector>

namespace octavo {

// CPUs this process may use: affinity mask and cgroup quota (rounded up) considered; at least 1.
int available_cpus();

// Keeps sleeping workers from being woken on the CPU of the thread that wakes them.
//
// A thread that wakes another goes on with work of its own, so the other needs a CPU of its own. Linux chooses an idle
// one, but in a virtual machine it takes an idle CPU for one that the host has taken away, and puts the worker on the
// waker's: both share it while the other idles. On two virtual CPUs of an AMD EPYC a worker asleep then joined in 1 %
// of loops of 200 us, and in 97 % of them, after 20 to 50 us, once it was kept off. Elsewhere there is nothing to do.
class WakeupPlacement {
 public:
  // To be called by the waker before it wakes, with the same workers until forget(). Restricts the first few of them to
  // the CPUs that the caller may use, but for the one it runs on; does nothing where they are already, or where it may
  // use no other.
  void keep_off_this_cpu(std::vector<std::thread>& workers);
  void forget() { kept_off_ = -1; }

 private:
  int kept_off_ = -1;
};

}  // namespace octavo
