// Calls one linear layer a number of times on one thread, for tools that count what a program executes.
//
//     run_linear KERNEL M K N CALLS
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "base/thread_pool.h"
#include "gemm/gemm_int8.h"
#include "gemm/registry.h"

int main(int argc, char** argv) {
  using namespace octavo;
  const Kernel* kernel = argc == 6 ? find_kernel(argv[1]) : nullptr;
  if (kernel == nullptr || !missing_features(*kernel).empty()) {
    std::fprintf(stderr, "usage: run_linear KERNEL M K N CALLS, with a kernel that runs here\n");
    return 2;
  }
  const std::int64_t m = std::atol(argv[2]), k = std::atol(argv[3]), n = std::atol(argv[4]), calls = std::atol(argv[5]);
  force_kernel(kernel);
  set_num_threads(1);
  std::vector<float> x(static_cast<std::size_t>(m * k)), y(static_cast<std::size_t>(m * n));
  std::vector<float> scale(static_cast<std::size_t>(n), 0.01f), bias(static_cast<std::size_t>(n), 0.5f);
  std::vector<std::uint8_t> weight(static_cast<std::size_t>(n * k));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 251) - 125.0f;
  for (std::size_t i = 0; i < weight.size(); ++i) weight[i] = static_cast<std::uint8_t>(i * 31);
  const PackedLinear layer({weight.data(), n, k, k, 1, false}, scale.data(), bias.data(), {});
  for (std::int64_t i = 0; i < calls; ++i) layer(x.data(), m, k, y.data(), n);
  return 0;
}
