#include "base/cpus.h"

#include <algorithm>
#include <cstdlib>
#include <string>

#include "base/text.h"

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace octavo {
namespace {

int rounded_up(long long quota, long long period) {
  return quota <= 0 || period <= 0 ? 0 : static_cast<int>((quota + period - 1) / period);
}

// "max 100000" or "150000 100000".
int quota_v2(const std::string& folder) {
  const std::string text = text_of(folder + "/cpu.max");
  const std::size_t space = text.find(' ');
  if (space == std::string::npos || text.starts_with("max")) return 0;
  return rounded_up(std::atoll(text.c_str()), std::atoll(text.c_str() + space));
}

// Two files; a quota of -1 is none.
int quota_v1(const std::string& folder) {
  const auto number = [&](const char* file) { return std::atoll(text_of(folder + file).c_str()); };
  return rounded_up(number("/cpu.cfs_quota_us"), number("/cpu.cfs_period_us"));
}

// The smallest quota of a group and of those that it is in, up to the mount. In a container the group may be named as
// the host sees it: what is not there has no quota, and the mount itself is the container's group.
int smallest_quota(const std::string& mount, std::string group, int (*quota)(const std::string&)) {
  int smallest = 0;
  for (;;) {
    const int here = quota(mount + group);
    if (here > 0) smallest = smallest == 0 ? here : std::min(smallest, here);
    const std::size_t slash = group.rfind('/');
    if (group.empty() || slash == std::string::npos) return smallest;
    group.resize(slash);
  }
}

bool lists_cpu(const std::string& controllers) { return ("," + controllers + ",").find(",cpu,") != std::string::npos; }

}  // namespace

int cgroup_cpus(const std::string& groups_of_process, const std::string& mount) {
  int smallest = 0;
  for (const std::string& line : split(text_of(groups_of_process), '\n')) {  // 0::/a/b in v2, 4:cpu,cpuacct:/a/b in v1
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1), group = line.substr(second + 1);
    int here = 0;
    if (controllers.empty()) {
      here = smallest_quota(mount, group, quota_v2);
    } else if (lists_cpu(controllers)) {
      here = smallest_quota(mount + "/cpu", group, quota_v1);  // a link to cpu,cpuacct where the two are one
    }
    if (here > 0) smallest = smallest == 0 ? here : std::min(smallest, here);
  }
  return smallest;
}

int available_cpus() {
  int cpus = static_cast<int>(std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) cpus = CPU_COUNT(&set);
#endif
  const int quota = cgroup_cpus("/proc/self/cgroup", "/sys/fs/cgroup");
  if (quota > 0) cpus = std::min(cpus, quota);
  return std::max(cpus, 1);
}

void WakeupPlacement::keep_off_this_cpu([[maybe_unused]] std::vector<std::thread>& workers) {
#if defined(__linux__)
  // Each call costs the waker about 1 us. Of many workers it is enough that some wake at once.
  constexpr std::size_t kMostWorkers = 7;
  const int cpu = sched_getcpu();
  if (cpu < 0 || cpu >= CPU_SETSIZE) return;
  cpu_set_t others;
  if (sched_getaffinity(0, sizeof others, &others) != 0) return;
  CPU_CLR(cpu, &others);
  if (CPU_COUNT(&others) == 0) return;
  const auto* const mask = reinterpret_cast<const unsigned char*>(&others);
  if (std::equal(given_.begin(), given_.end(), mask, mask + sizeof others)) return;
  given_.assign(mask, mask + sizeof others);
  for (std::size_t i = 0; i < std::min(workers.size(), kMostWorkers); ++i) {
    pthread_setaffinity_np(workers[i].native_handle(), sizeof others, &others);
  }
#endif
}

}  // namespace octavo
