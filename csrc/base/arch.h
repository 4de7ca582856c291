// What this CPU and its operating system let a program use.
//
// A feature counts only where both agree: CPUID (or HWCAP) reports the instructions and XGETBV reports that the
// operating system saves the registers; tile registers also need the operating system's permission, which is asked for
// here. Everything is read once, at first use, and never changes afterwards.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/features.h"

namespace octavo {

struct FeatureName {
  Feature feature;
  const char* name;
};

// Every feature that this architecture can have, in ascending order of what it is worth.
struct FeatureList {
  const FeatureName* data;
  std::size_t size;
  const FeatureName* begin() const { return data; }
  const FeatureName* end() const { return data + size; }
};
FeatureList known_features();

std::uint32_t cpu_features();

// Why the operating system keeps back a feature that the CPU has: amx_int8, in words. Empty where it keeps nothing
// back.
const std::string& feature_refusal();
std::string cpu_brand();

// Sizes of one core's data caches; a level that the system does not report has a modest default (32 KiB, 256 KiB, 2
// MiB).
struct CacheSizes {
  std::size_t l1d_bytes, l2_bytes, l3_bytes;
};
const CacheSizes& cache_sizes();

// For a loop that waits for a change in memory: some tens of nanoseconds, in which the core does less.
void pause_briefly();

// Sets the default float environment (round to nearest even, subnormals kept, exceptions masked) and puts the caller's
// back: results must not depend on what another library left in MXCSR or FPCR.
class DefaultFloatEnvironment {
 public:
  DefaultFloatEnvironment();
  ~DefaultFloatEnvironment();
  DefaultFloatEnvironment(const DefaultFloatEnvironment&) = delete;
  DefaultFloatEnvironment& operator=(const DefaultFloatEnvironment&) = delete;

 private:
  std::uint64_t saved_;
};

}  // namespace octavo
