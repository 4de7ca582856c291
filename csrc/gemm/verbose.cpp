#include "gemm/verbose.h"

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace octavo {
namespace {

bool read_environment() {
  const char* text = std::getenv("OCTAVO_VERBOSE");
  const std::string value = text == nullptr ? "" : text;
  if (value.empty() || value == "0") return false;
  if (value == "1") return true;
  throw std::invalid_argument("OCTAVO_VERBOSE must be 0 or 1, got \"" + value + "\"");
}

const char* plural(std::int64_t count) { return count == 1 ? "" : "s"; }

}  // namespace

bool verbose() {
  static const bool on = read_environment();
  return on;
}

void CallReport::print() const {
  const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - start_;
  // One write a line: lines of threads that call at once do not mix.
  std::fprintf(stderr, "octavo: %s %lldx%lldx%lld, kernel %s, %d thread%s, %lld block%s of %s, %.3f ms\n", operation_,
               static_cast<long long>(m_), static_cast<long long>(k_), static_cast<long long>(n_), kernel_, threads_,
               plural(threads_), static_cast<long long>(blocks_), plural(blocks_), of_, taken.count());
}

}  // namespace octavo
