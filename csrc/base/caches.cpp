#include "base/caches.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "base/text.h"

#if defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(_WIN32)
#if !defined(NOMINMAX)  // MinGW defines it
#define NOMINMAX
#endif
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#endif

namespace octavo {
namespace {

// How many CPUs a list such as "0-3,8" names. At least 1, for files that are not there.
std::size_t cpus_in(const std::string& list) {
  std::size_t count = 0;
  for (const std::string& range : split(list, ',')) {
    const std::size_t dash = range.find('-');
    const long first = std::atol(range.c_str());
    const long last = dash == std::string::npos ? first : std::atol(range.c_str() + dash + 1);
    count += static_cast<std::size_t>(std::max(0L, last - first) + 1);
  }
  return std::max<std::size_t>(1, count);
}

#if defined(__APPLE__)

// Cores of the fast kind come first: "perflevel0". Macs with one kind of core have the plain names alone.
CacheSizes system_caches() {
  const auto read = [](const char* name, std::size_t otherwise) {
    std::int64_t value = 0;
    std::size_t size = sizeof value;
    const bool known = sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value > 0;
    return known ? static_cast<std::size_t>(value) : otherwise;
  };
  CacheSizes c;
  c.l1d_bytes = read("hw.perflevel0.l1dcachesize", read("hw.l1dcachesize", c.l1d_bytes));
  c.l2_bytes =
      read("hw.perflevel0.l2cachesize", read("hw.l2cachesize", c.l2_bytes)) / read("hw.perflevel0.cpusperl2", 1);
  c.l3_bytes = read("hw.l3cachesize", c.l3_bytes);
  return c;
}

#elif defined(_WIN32)

CacheSizes system_caches() {
  using Entry = SYSTEM_LOGICAL_PROCESSOR_INFORMATION;
  DWORD bytes = 0;
  GetLogicalProcessorInformation(nullptr, &bytes);
  std::vector<Entry> entries(bytes / sizeof(Entry));
  CacheSizes c;
  if (entries.empty() || !GetLogicalProcessorInformation(entries.data(), &bytes)) return c;
  const auto cores_of = [&](ULONG_PTR cpus) {
    return std::count_if(entries.begin(), entries.end(), [&](const Entry& e) {
      return e.Relationship == RelationProcessorCore && (e.ProcessorMask & cpus) != 0;
    });
  };
  for (const Entry& e : entries) {
    if (e.Relationship != RelationCache || (e.ProcessorMask & 1) == 0 || e.Cache.Type == CacheInstruction) continue;
    if (e.Cache.Level == 1) c.l1d_bytes = e.Cache.Size;
    if (e.Cache.Level == 2)
      c.l2_bytes = e.Cache.Size / static_cast<std::size_t>(std::max<std::ptrdiff_t>(1, cores_of(e.ProcessorMask)));
    if (e.Cache.Level == 3) c.l3_bytes = e.Cache.Size;
  }
  return c;
}

#else

CacheSizes system_caches() { return caches_described_in("/sys/devices/system/cpu/cpu0"); }

#endif

}  // namespace

// Each cache has a folder: its level, its type, its size as "48K", and the CPUs that share it. The threads of one core
// count once.
CacheSizes caches_described_in(const std::string& cpu_folder) {
  CacheSizes c;
  const std::size_t threads_per_core = cpus_in(text_of(cpu_folder + "/topology/thread_siblings_list"));
  for (int index = 0; index < 8; ++index) {
    const std::string folder = cpu_folder + "/cache/index" + std::to_string(index) + "/";
    const std::string type = text_of(folder + "type");
    const std::size_t bytes = std::strtoul(text_of(folder + "size").c_str(), nullptr, 10) << 10;
    if (type.empty()) break;
    if (type.starts_with("Instruction") || bytes == 0) continue;
    const int level = std::atoi(text_of(folder + "level").c_str());
    if (level == 1) c.l1d_bytes = bytes;
    if (level == 2) {
      const std::size_t cpus = cpus_in(text_of(folder + "shared_cpu_list"));
      c.l2_bytes = bytes / std::max<std::size_t>(1, cpus / threads_per_core);
    }
    if (level == 3) c.l3_bytes = bytes;
  }
  return c;
}

const CacheSizes& cache_sizes() {
  static const CacheSizes sizes = system_caches();
  return sizes;
}

}  // namespace octavo
