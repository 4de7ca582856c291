// Quotas of control groups and sizes of caches, from files as Linux shows them.
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "base/caches.h"
#include "base/cpus.h"
#include "check.h"

namespace octavo::test {
namespace {

namespace fs = std::filesystem;

// A folder of files, as the kernel shows them under /proc and /sys.
class Files {
 public:
  Files()
      : root_(fs::temp_directory_path() / ("octavo-cpus-" + std::to_string(count_++) + "-" +
                                           std::to_string(reinterpret_cast<std::uintptr_t>(this)))) {
    fs::create_directories(root_);
  }
  ~Files() { fs::remove_all(root_); }
  Files(const Files&) = delete;
  Files& operator=(const Files&) = delete;

  void put(const std::string& file, const std::string& text) {
    fs::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << text;
  }
  std::string path(const std::string& file) const { return (root_ / file).string(); }

 private:
  static inline int count_ = 0;
  fs::path root_;
};

class Groups {
 public:
  explicit Groups(const std::string& of_process) { files_.put("of_process", of_process); }
  Groups& put(const std::string& file, const std::string& text) {
    files_.put(file, text);
    return *this;
  }
  int cpus() const { return cgroup_cpus(files_.path("of_process"), files_.path("mount")); }

 private:
  Files files_;
};

// One CPU as Linux describes it: the threads of its core, and its caches in the order of their folders.
class Cpu {
 public:
  explicit Cpu(const std::string& threads_of_core) { files_.put("topology/thread_siblings_list", threads_of_core); }
  Cpu& cache(const char* level, const char* type, const char* size, const char* cpus) {
    const std::string folder = "cache/index" + std::to_string(count_++) + "/";
    files_.put(folder + "level", level);
    files_.put(folder + "type", type);
    files_.put(folder + "size", size);
    files_.put(folder + "shared_cpu_list", cpus);
    return *this;
  }
  bool has(std::size_t l1d_kib, std::size_t l2_kib, std::size_t l3_kib) const {
    const CacheSizes c = caches_described_in(files_.path("."));
    return c.l1d_bytes == l1d_kib << 10 && c.l2_bytes == l2_kib << 10 && c.l3_bytes == l3_kib << 10;
  }

 private:
  Files files_;
  int count_ = 0;
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

void check_caches() {
  check(Cpu("0\n")
            .cache("1\n", "Data\n", "32K\n", "0\n")
            .cache("1\n", "Instruction\n", "64K\n", "0\n")
            .cache("2\n", "Unified\n", "1024K\n", "0\n")
            .cache("3\n", "Unified\n", "32768K\n", "0-7\n")
            .has(32, 1024, 32768),
        "caches: an L2 for each core; what holds instructions does not count; L3 is whole");
  check(Cpu("0,32\n").cache("2\n", "Unified\n", "2048K\n", "0,32\n").has(32, 2048, 2048),
        "caches: two threads are one core");
  check(Cpu("0\n").cache("2\n", "Unified\n", "1024K\n", "0-3\n").has(32, 256, 2048),
        "caches: four cores share an L2, as on a Raspberry Pi 4");
  check(Cpu("0-1\n").cache("2\n", "Unified\n", "4096K\n", "0-1,4-5\n").has(32, 2048, 2048),
        "caches: two cores of two threads share an L2");
  check(Cpu("0\n").cache("1\n", "Data\n", "\n", "0\n").cache("2\n", "Unified\n", "512K\n", "").has(32, 512, 2048),
        "caches: sizes and lists that are not known");
  check(Cpu("").has(32, 256, 2048), "caches: none described");
  const CacheSizes here = cache_sizes();
  check(
      here.l1d_bytes >= 4 << 10 && here.l1d_bytes <= 1 << 20 && here.l2_bytes >= 64 << 10 && here.l2_bytes <= 64 << 20,
      "caches: sizes of this machine");
}

}  // namespace
}  // namespace octavo::test

int main() {
  using namespace octavo::test;
  check_version_2();
  check_version_1();
  check_caches();
  check(octavo::cgroup_cpus("/nowhere", "/nowhere") == 0, "no control groups");
  check(Groups("nonsense\n0:x\n::\n").cpus() == 0, "lines of no known form");
  check(octavo::available_cpus() >= 1, "at least one CPU");
  return finish();
}
