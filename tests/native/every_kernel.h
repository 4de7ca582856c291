// Running checks on every kernel, for the programs that compare kernels.
#pragma once

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "check.h"
#include "gemm/registry.h"

namespace octavo::test {

// What main returns after checking each kernel that this CPU has, or of those that its arguments name. Of the others it
// says why they did not run: what they lack, or what against() says against them.
struct MainArguments {
  int count;
  char** values;
};

inline int check_every_kernel(
    MainArguments arguments, const std::string& what, void (*check_kernel)(const Kernel&),
    const char* (*against)(const Kernel&) = [](const Kernel&) -> const char* { return nullptr; }) {
  const std::vector<std::string> wanted(arguments.values + 1, arguments.values + arguments.count);
  for (const Kernel* kernel : all_kernels()) {
    if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), kernel->name) == wanted.end()) continue;
    const auto missing = missing_features(*kernel);
    const char* reason = against(*kernel);
    if (reason == nullptr && missing.empty()) {
      check_kernel(*kernel);
    } else {
      const std::string why = reason != nullptr ? reason : "this CPU lacks " + missing[0];
      std::printf("kernel %s%s: not run, %s\n", kernel->name, what.c_str(), why.c_str());
    }
  }
  return finish();
}

}  // namespace octavo::test
