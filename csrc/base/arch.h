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

// Every feature that this architecture can have, the least useful first.
struct FeatureList {
  const FeatureName* data;
  std::size_t size;
  const FeatureName* begin() const { return data; }
  const FeatureName* end() const { return data + size; }
};
FeatureList known_features();

std::uint32_t cpu_features();

// Why the operating system withholds a feature that the CPU has (amx_int8), in words. Empty where it withholds none.
const std::string& feature_refusal();
std::string cpu_brand();

// Pauses the core for some tens of nanoseconds: for loops that wait for a change in memory.
void pause_briefly();

// Sets the default float environment (round to nearest even, subnormals kept, exceptions masked) and restores the
// caller's: results must not depend on what another library left in MXCSR or FPCR.
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
