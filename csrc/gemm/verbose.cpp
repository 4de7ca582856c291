#include "gemm/verbose.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <utility>

namespace octavo {
namespace {

std::atomic<Verbosity> g_verbosity{Verbosity::kUnset};

Verbosity read_environment() {
  const char* text = std::getenv("OCTAVO_VERBOSE");
  const std::string value = text == nullptr ? "" : text;
  if (value.empty() || value == "0") return Verbosity::kOff;
  if (value == "1") return Verbosity::kStderr;
  throw std::invalid_argument("OCTAVO_VERBOSE must be 0 or 1, got \"" + value + "\"");
}

std::vector<std::string>& kept_reports() {
  thread_local std::vector<std::string> lines;
  return lines;
}

const char* plural(std::int64_t count) { return count == 1 ? "" : "s"; }

}  // namespace

bool verbose() {
  Verbosity now = verbosity();
  if (now == Verbosity::kUnset) {
    const Verbosity initial = read_environment();
    // set_verbosity may have come in between: then that counts.
    if (g_verbosity.compare_exchange_strong(now, initial, std::memory_order_relaxed)) now = initial;
  }
  return now != Verbosity::kOff;
}

Verbosity verbosity() noexcept { return g_verbosity.load(std::memory_order_relaxed); }
void set_verbosity(Verbosity verbosity) noexcept { g_verbosity.store(verbosity, std::memory_order_relaxed); }

std::vector<std::string> take_reports() { return std::exchange(kept_reports(), {}); }

void CallReport::report() const noexcept {
  const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - start_;
  char line[256];  // the longest has about 200 characters
  std::snprintf(line, sizeof line, "octavo: %s %lldx%lldx%lld, kernel %s, %d thread%s, %lld block%s of %s, %.3f ms",
                operation_, static_cast<long long>(m_), static_cast<long long>(k_), static_cast<long long>(n_), kernel_,
                threads_, plural(threads_), static_cast<long long>(blocks_), plural(blocks_), of_, taken.count());
  if (verbosity() == Verbosity::kKept) {
    try {
      kept_reports().emplace_back(line);
    } catch (const std::bad_alloc&) {
      // A product whose line finds no memory is still right.
    }
    return;
  }
  // One write a line: lines of threads that call at once do not mix.
  std::fprintf(stderr, "%s\n", line);
}

}  // namespace octavo
