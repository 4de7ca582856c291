// Which kernel a product goes to, and how its row is planned with. Run with the emulated kernels, of which amxint8 is
// the best and avxvnni has none for four-bit weights.
#include <cstdio>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "check.h"
#include "gemm/gemm_grouped.h"
#include "gemm/gemm_int4.h"
#include "gemm/gemm_int8.h"
#include "gemm/registry.h"
#include "system.h"

namespace octavo::test {
namespace {

std::string kernel_of(std::int64_t rows) { return kernel_for(rows).name; }

template <class Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

// OCTAVO_MIN_ROWS is read once, at the first use of a kernel: by the first call here.
void check_environment() {
  for (const char* wrong : {"amxint8", "amx=3", "amxint8=", "amxint8=0", "amxint8=3x", "amxint8=-1"}) {
    set_environment("OCTAVO_MIN_ROWS", wrong);
    const std::string message = error_of([] { kernel_of(1); });
    check(message.find("OCTAVO_MIN_ROWS: expected NAME=ROWS,...") == 0 && message.find(wrong) != std::string::npos,
          std::string("environment ") + wrong + ": " + message);
  }
  set_environment("OCTAVO_MIN_ROWS", "amxint8=7,neon=3");
  check(!error_of([] { kernel_of(1); }).empty(), "environment: neon is not a kernel of this build");
  set_environment("OCTAVO_MIN_ROWS", "amxint8=7,avx2=3");
  check(kernel_of(6) == "avx512vnni" && kernel_of(7) == "amxint8", "environment: 7 rows");
  check(min_rows(*find_kernel("avx2")).int8 == 3, "environment: a second entry");
}

void check_rows() {
  const Kernel& amx = *find_kernel("amxint8");
  set_min_rows(amx, std::nullopt);
  check(kernel_of(0) == "avx512vnni" && kernel_of(amx.min_rows - 1) == "avx512vnni", "few rows");
  check(kernel_of(amx.min_rows) == "amxint8" && kernel_of(4096) == "amxint8", "many rows");
  check(active_kernel().name == std::string("amxint8"), "the best kernel, whatever the rows");
  set_min_rows(amx, 1);
  check(kernel_of(1) == "amxint8", "set to 1");
  set_min_rows(*find_kernel("avx512vnni"), 100);
  set_min_rows(amx, 1000);
  check(kernel_of(99) == "avxvnni" && kernel_of(100) == "avx512vnni", "two kernels with thresholds");
  check(!error_of([&] { set_min_rows(amx, 0); }).empty() && min_rows(amx).int8 == 1000, "0 rows refused");
  force_kernel(&amx);
  check(kernel_of(1) == "amxint8", "forced: any number of rows");
  force_kernel(nullptr);
  for (const Kernel* kernel : all_kernels()) set_min_rows(*kernel, std::nullopt);
}

// Measured apart for weights that stay in the L2 cache, and for four-bit ones.
void check_weights() {
  const Kernel& amx = *find_kernel("amxint8");
  const auto of_bytes = [](std::int64_t rows, std::int64_t bytes) {
    return std::string(kernel_for(
                           rows, [](const Kernel&) { return true; }, least_rows_of(bytes))
                           .name);
  };
  check(amx.min_rows_near < amx.min_rows, "fewer rows of near weights");
  check(of_bytes(amx.min_rows_near, kNearWeightBytes) == "amxint8", "enough rows of near weights");
  check(of_bytes(amx.min_rows_near - 1, kNearWeightBytes) == "avx512vnni", "too few rows of near weights");
  check(of_bytes(amx.min_rows - 1, kNearWeightBytes + 1) == "avx512vnni", "too few rows of far weights");
  check(of_bytes(amx.min_rows, kNearWeightBytes + 1) == "amxint8", "enough rows of far weights");
  set_min_rows(amx, 9);
  check(of_bytes(8, 1) == "avx512vnni" && of_bytes(9, kNearWeightBytes + 1) == "amxint8", "set for all weights");
  const MinRows set = min_rows(amx);
  check(chosen_min_rows(amx) == 9 && set.int8 == 9 && set.int8_near == 9 && set.int4 == 9 && set.grouped == 9,
        "what was set");
  set_min_rows(amx, std::nullopt);
  const MinRows measured = min_rows(amx);
  check(chosen_min_rows(amx) == std::nullopt && measured.int8 == amx.min_rows &&
            measured.int8_near == amx.min_rows_near && measured.int4 == amx.int4->min_rows &&
            measured.grouped == amx.grouped->min_rows,
        "back to what was measured");
}

// The line that OCTAVO_VERBOSE prints for m rows.
template <class Layer>
std::string report_of(const Layer& layer, std::int64_t m) {
  const std::vector<float> x(static_cast<std::size_t>(m * layer.k()), 1.0f);
  std::vector<float> y(static_cast<std::size_t>(m * layer.n()));
  return stderr_of([&] { layer(x.data(), m, layer.k(), y.data(), layer.n()); });
}

// 32x768x768: 13 us of work for amxint8, so one thread; 42 us with four bits and 94 us for avx512vnni, so all of them.
void check_plan() {
  constexpr std::int64_t m = 32, n = 768, k = 768;
  const std::vector<std::int8_t> weight(n * k, 3);
  const std::vector<float> scale(n, 0.01f);
  const PackedLinear int8({reinterpret_cast<const std::uint8_t*>(weight.data()), n, k, k, 1, false}, scale.data(),
                          nullptr, {});
  const PackedLinearInt4 int4({weight.data(), n, k, 0, scale.data(), nullptr, nullptr}, nullptr, {});
  const auto expect = [](const std::string& what, const std::string& report, const std::string& part) {
    check(report.find(part) != std::string::npos, what + ": expected \"" + part + "\" in " + report);
  };
  const std::vector<float> group_scale(n * k / 32, 0.01f);
  GroupedView codes{};
  codes.n = n;
  codes.k = k;
  codes.group_k = 32;
  codes.bits = 4;
  codes.is_signed = true;
  codes.codes = reinterpret_cast<const std::uint8_t*>(weight.data());
  codes.scale = reinterpret_cast<const std::byte*>(group_scale.data());
  const PackedLinearGrouped grouped(codes, nullptr, {{false, false, 32}, false});
  const PackedLinearGrouped int16(codes, nullptr, {{true, false, 0}, false});
  set_num_threads(2);
  set_min_rows(*find_kernel("amxint8"), std::nullopt);
  expect("int8", report_of(int8, m), "kernel amxint8, 1 thread,");
  expect("int4", report_of(int4, m), "kernel amxint8, 2 threads,");
  expect("int8 of few rows", report_of(int8, 2), "kernel avx512vnni,");
  expect("int8 of few rows, near weights", report_of(int8, 3), "kernel amxint8,");
  expect("int4 of fewer than its own rows", report_of(int4, 15), "kernel avx512vnni,");
  expect("int4 of its own rows", report_of(int4, 16), "kernel amxint8,");
  expect("grouped codes", report_of(grouped, m), "kernel amxint8, 2 threads,");
  expect("grouped codes of fewer than their own rows", report_of(grouped, 15), "kernel avx512vnni,");
  expect("grouped codes and int16 activations", report_of(int16, m), "kernel avx512vnni,");

  set_min_rows(*find_kernel("amxint8"), m + 2);
  expect("int4 of fewer rows than were set", report_of(int4, m + 1), "kernel avx512vnni,");
  set_min_rows(*find_kernel("avx512vnni"), m + 1);
  expect("int4 of few rows", report_of(int4, m), "kernel avx2, 2 threads,");
  expect("int4 of as many rows as it takes", report_of(int4, m + 1), "kernel avx512vnni,");
  set_min_rows(*find_kernel("avx512vnni"), std::nullopt);
  set_min_rows(*find_kernel("amxint8"), std::nullopt);

  force_kernel(find_kernel("amxint8"));
  expect("int4, amxint8 forced", report_of(int4, 1), "kernel amxint8,");
  expect("grouped codes, amxint8 forced", report_of(grouped, 1), "kernel amxint8,");
  expect("grouped codes and int16 activations, amxint8 forced", report_of(int16, m), "kernel avx512vnni,");
  force_kernel(find_kernel("avxvnni"));
  expect("int4, avxvnni forced", report_of(int4, m), "kernel avx2, 2 threads,");
  expect("int8, avxvnni forced", report_of(int8, m), "kernel avxvnni, 2 threads,");
  force_kernel(nullptr);
}

// On both sides of the threshold the same bits, and row i of a batch equals row i alone.
void check_bits() {
  constexpr std::int64_t k = 200, n = 70, most = 8;
  std::vector<float> x(most * k), scale(n, 0.01f), bias(n, 1.5f), all(most * n), some(most * n);
  std::vector<std::uint8_t> weight(n * k);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * i % 1009) * 0.1f - 50.0f;
  for (std::size_t i = 0; i < weight.size(); ++i) weight[i] = static_cast<std::uint8_t>(i * 37);
  const PackedLinear layer({weight.data(), n, k, k, 1, false}, scale.data(), bias.data(), {});
  layer(x.data(), most, k, all.data(), n);
  for (std::int64_t m = 1; m <= most; ++m) {
    layer(x.data(), m, k, some.data(), n);
    check(std::memcmp(all.data(), some.data(), static_cast<std::size_t>(m * n) * sizeof(float)) == 0,
          std::to_string(m) + " rows by " + kernel_of(m));
  }
}

}  // namespace
}  // namespace octavo::test

int main() {
  using namespace octavo;
  if (const auto missing = missing_features(*find_kernel("amxint8")); !missing.empty()) {
    std::printf("not run: the emulated kernels need %s, which this CPU lacks\n", missing[0].c_str());
    return 0;
  }
  test::set_environment("OCTAVO_VERBOSE", "1");
  test::check_environment();
  test::check_plan();
  test::check_rows();
  test::check_weights();
  test::check_bits();
  return test::finish();
}
