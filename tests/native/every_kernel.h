// Running checks on every kernel, for the programs that compare kernels.
#pragma once

#include <cstdio>

#include "check.h"
#include "gemm/registry.h"

namespace octavo::test {

// What main returns after checking each kernel that this CPU has. Of the others it says what they lack.
inline int check_every_kernel(const char* what, void (*check_kernel)(const Kernel&)) {
  for (const Kernel* kernel : all_kernels()) {
    const auto missing = missing_features(*kernel);
    if (missing.empty()) {
      check_kernel(*kernel);
    } else {
      std::printf("kernel %s %s: not run, this CPU lacks %s\n", kernel->name, what, missing[0].c_str());
    }
  }
  return finish();
}

}  // namespace octavo::test
