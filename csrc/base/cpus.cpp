#include "base/cpus.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace octavo {
namespace {

// "max 100000" or "150000 100000" in cgroup v2; two files in v1. Returns 0 where there is no limit.
int cgroup_cpus() {
  long long quota = 0, period = 0;
  std::string first;
  std::ifstream v2("/sys/fs/cgroup/cpu.max");
  if (v2 >> first >> period) {
    quota = first == "max" ? 0 : std::atoll(first.c_str());
  } else {
    std::ifstream quota_file("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"),
        period_file("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
    if (!(quota_file >> quota) || !(period_file >> period)) return 0;
  }
  if (quota <= 0 || period <= 0) return 0;
  return static_cast<int>((quota + period - 1) / period);
}

}  // namespace

int available_cpus() {
  int cpus = static_cast<int>(std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) cpus = CPU_COUNT(&set);
#endif
  const int quota = cgroup_cpus();
  if (quota > 0) cpus = std::min(cpus, quota);
  return std::max(cpus, 1);
}

void WakeupPlacement::keep_off_this_cpu([[maybe_unused]] std::vector<std::thread>& workers) {
#if defined(__linux__)
  // Each call costs the waker about 1 us. Of many workers it is enough that some wake at once.
  constexpr std::size_t kMostWorkers = 7;
  const int cpu = sched_getcpu();
  if (cpu == kept_off_ || cpu < 0 || cpu >= CPU_SETSIZE) return;
  cpu_set_t others;
  if (sched_getaffinity(0, sizeof others, &others) != 0) return;
  CPU_CLR(cpu, &others);
  if (CPU_COUNT(&others) == 0) return;
  kept_off_ = cpu;
  for (std::size_t i = 0; i < std::min(workers.size(), kMostWorkers); ++i) {
    pthread_setaffinity_np(workers[i].native_handle(), sizeof others, &others);
  }
#endif
}

}  // namespace octavo
