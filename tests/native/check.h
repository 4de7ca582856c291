// Counting checks, shared by the native tests.
#pragma once

#include <atomic>
#include <cstdio>
#include <string>

namespace octavo::test {

inline std::atomic<long> passed{0};
inline std::atomic<long> failed{0};

inline bool check(bool ok, const std::string& what) {
  if (ok) {
    ++passed;
  } else if (++failed <= 20) {
    std::printf("FAILED: %s\n", what.c_str());
  }
  return ok;
}

inline int finish() {
  std::printf("%ld passed, %ld failed\n", passed.load(), failed.load());
  return failed == 0 ? 0 : 1;
}

}  // namespace octavo::test
