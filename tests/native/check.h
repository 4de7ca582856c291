// Counting checks, shared by the native tests.
#pragma once

#include <atomic>
#include <cstdio>
#include <string>

// GCC and Clang tell it in ways of their own.
#if defined(__SANITIZE_THREAD__)
#define OCTAVO_UNDER_TSAN
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define OCTAVO_UNDER_TSAN
#endif
#endif

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
