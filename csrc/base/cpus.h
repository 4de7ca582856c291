// Which CPUs threads run on: how many this process may use, and where a sleeping thread wakes up.
#pragma once

#include <string>
#include <thread>
#include <vector>

namespace octavo {

// CPUs that this process may use, by its affinity mask and its cgroup quota (rounded up). At least 1.
int available_cpus();

// The quota of the groups that a file in the form of /proc/self/cgroup names, and of the groups that these are in,
// rounded up to whole CPUs; 0 where there is none. `mount` is where control groups of version 2 are mounted, and above
// those of version 1.
int cgroup_cpus(const std::string& groups_of_process, const std::string& mount);

// Keeps sleeping workers off the CPU of the thread that wakes them.
//
// The waker has work of its own, so the worker should wake on another CPU. Linux would choose an idle one. In a virtual
// machine, however, it takes an idle CPU for one that the host has withdrawn and puts the worker on the waker's CPU,
// where the two take turns. On two virtual CPUs of an AMD EPYC a sleeping worker then took part in 1 % of loops of 200
// us; kept off the waker's CPU, in 97 %, after 20 to 50 us. Systems other than Linux need nothing of this.
class WakeupPlacement {
 public:
  // Call it on the thread that is about to wake the workers, with the same workers until forget(). Restricts the first
  // few of them to the CPUs that the caller may use, less the one it runs on. Does nothing where that is so already, or
  // where the caller may use no other CPU.
  void keep_off_this_cpu(std::vector<std::thread>& workers);
  void forget() { given_.clear(); }

 private:
  std::vector<unsigned char> given_;  // the workers' CPUs, as the system's mask
};

}  // namespace octavo
