// Quotas of control groups, from files as Linux shows them.
#include "base/cpus.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "check.h"

namespace octavo::test {
namespace {

namespace fs = std::filesystem;

class Groups {
 public:
  explicit Groups(const std::string& of_process)
      : root_(fs::temp_directory_path() / ("octavo-cgroup-" + std::to_string(count_++) + "-" +
                                           std::to_string(reinterpret_cast<std::uintptr_t>(this)))) {
    fs::create_directories(root_);
    put("of_process", of_process);
  }
  ~Groups() { fs::remove_all(root_); }

  Groups& put(const std::string& file, const std::string& text) {
    fs::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << text;
    return *this;
  }
  int cpus() const { return cgroup_cpus((root_ / "of_process").string(), (root_ / "mount").string()); }

 private:
  static inline int count_ = 0;
  fs::path root_;
};

void check_version_2() {
  check(Groups("0::/\n").put("mount/cpu.max", "150000 100000\n").cpus() == 2, "v2: rounded up");
  check(Groups("0::/\n").put("mount/cpu.max", "max 100000\n").cpus() == 0, "v2: no quota");
  check(Groups("0::/a/b\n").put("mount/a/b/cpu.max", "300000 100000\n").cpus() == 3, "v2: the process's own group");
  check(Groups("0::/a/b\n")
                .put("mount/a/b/cpu.max", "400000 100000\n")
                .put("mount/a/cpu.max", "200000 100000\n")
                .put("mount/c/cpu.max", "100000 100000\n")
                .cpus() == 2,
        "v2: a group that it is in has less, and another one does not count");
  check(Groups("0::/kubepods/pod1/host-name\n").put("mount/cpu.max", "50000 100000\n").cpus() == 1,
        "v2: in a container, the group's name is the host's");
}

void check_version_1() {
  const std::string line = "12:pids:/a\n4:cpu,cpuacct:/a\n1:name=systemd:/a\n";
  check(Groups(line)
                .put("mount/cpu/a/cpu.cfs_quota_us", "250000\n")
                .put("mount/cpu/a/cpu.cfs_period_us", "100000\n")
                .cpus() == 3,
        "v1: the process's own group");
  check(Groups(line)
                .put("mount/cpu/a/cpu.cfs_quota_us", "-1\n")
                .put("mount/cpu/a/cpu.cfs_period_us", "100000\n")
                .cpus() == 0,
        "v1: no quota");
  check(Groups("3:cpuset:/a\n")
                .put("mount/cpu/a/cpu.cfs_quota_us", "100000\n")
                .put("mount/cpu/a/cpu.cfs_period_us", "100000\n")
                .cpus() == 0,
        "v1: another controller");
}

}  // namespace
}  // namespace octavo::test

int main() {
  using namespace octavo::test;
  check_version_2();
  check_version_1();
  check(octavo::cgroup_cpus("/nowhere", "/nowhere") == 0, "no control groups");
  check(Groups("nonsense\n0:x\n::\n").cpus() == 0, "lines of no known form");
  check(octavo::available_cpus() >= 1, "at least one CPU");
  return finish();
}
