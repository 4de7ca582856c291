// What share of its instruction's limit each x86 kernel reaches, float32 to float32, quantization included; one thread.
//
//     cmake --preset default && cmake --build --preset default
//     build/default/tests/native/kernel_share [M K N ...]
//
// The limit is measured in the same run, with nothing loaded or stored: 24 or 12 accumulators in registers, as the
// kernels have them. Limits, layers and kernels take turns; the figures are medians of nine rounds, and beside them the
// best round: neighbours on a shared machine take cache and memory, which only ever lowers a rate. The kernel avxvnni
// runs where the CPU has AVX512-VNNI, as tests/native/evex_avxvnni.cpp builds it: the same code with the same number of
// registers, on the EVEX form of its instruction, whose limit at 256 bits is what it is held against.
#include <time.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "gemm/gemm_int8.h"
#include "gemm/registry.h"

namespace {

constexpr int kRounds = 9;
constexpr long kSteps = 200'000;

double thread_seconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

// Time of this thread on a CPU: what others take from it on a shared machine does not count.
template <class Work>
double seconds(const Work& work) {
  const double start = thread_seconds();
  work();
  return thread_seconds() - start;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// One instruction sequence for each accumulator, spelt out: an array in C++ would have to be kept in registers first.
#define FOR_12(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11)
#define FOR_24(f) FOR_12(f) f(12) f(13) f(16) f(17) f(18) f(19) f(20) f(21) f(22) f(23) f(24) f(25)
#define CLOBBERED                                                                                                     \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", \
      "xmm14", "xmm15"
#define DOT_512(r) "vpdpbusd %%zmm14, %%zmm15, %%zmm" #r "\n\t"
#define DOT_256(r) "vpdpbusd %%ymm14, %%ymm15, %%ymm" #r "\n\t"
#define PAIR_256(r)                                                                                                 \
  "vpxor %%ymm12, %%ymm13, %%ymm14\n\tvpxor %%ymm12, %%ymm13, %%ymm15\n\t"                                          \
  "vpmaddubsw %%ymm14, %%ymm12, %%ymm14\n\tvpmaddubsw %%ymm15, %%ymm12, %%ymm15\n\t"                                \
  "vpaddw %%ymm15, %%ymm14, %%ymm14\n\tvpmaddwd %%ymm13, %%ymm14, %%ymm14\n\tvpaddd %%ymm14, %%ymm" #r ", %%ymm" #r \
  "\n\t"

void dot_512() {
  for (long i = 0; i < kSteps; ++i) __asm__ volatile(FOR_24(DOT_512) : : : CLOBBERED);
}
void dot_256() {
  for (long i = 0; i < kSteps; ++i) __asm__ volatile(FOR_12(DOT_256) : : : CLOBBERED);
}
void pair_256() {
  for (long i = 0; i < kSteps; ++i) __asm__ volatile(FOR_12(PAIR_256) : : : CLOBBERED);
}

struct Contender {
  const char* kernel;
  const char* limit;
  void (*registers_only)();
  double operations_per_step;  // a multiplication and an addition are two
};
constexpr Contender kContenders[] = {
    {"avx512vnni", "VPDPBUSD, 512 bit", dot_512, 24 * 64 * 2},
    {"avxvnni", "VPDPBUSD, 256 bit", dot_256, 12 * 32 * 2},
    {"avx2", "2 VPXOR + 2 VPMADDUBSW + VPADDW + VPMADDWD + VPADDD, 256 bit", pair_256, 12 * 64 * 2},
};

struct Shape {
  std::int64_t m, k, n;
};

// The mean of four bytes that look random: a standard deviation of 37 in -128..127, as weights from a normal
// distribution have it. To avx2 it makes a difference.
std::uint8_t about_normal(std::uint64_t i) {
  std::uint64_t x = (i + 1) * 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93;
  x ^= x >> 32;
  const std::uint64_t sum = (x & 0xff) + (x >> 8 & 0xff) + (x >> 16 & 0xff) + (x >> 24 & 0xff);
  return static_cast<std::uint8_t>(sum / 4 - 128);
}

void measure(const Shape& s) {
  using namespace octavo;
  std::vector<float> x(static_cast<std::size_t>(s.m * s.k)), y(static_cast<std::size_t>(s.m * s.n));
  std::vector<float> scale(static_cast<std::size_t>(s.n), 0.01f), bias(static_cast<std::size_t>(s.n), 1.0f);
  std::vector<std::uint8_t> weight(static_cast<std::size_t>(s.n * s.k));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 251) - 125.0f;
  for (std::size_t i = 0; i < weight.size(); ++i) weight[i] = about_normal(i);
  const PackedLinear layer({weight.data(), s.n, s.k, s.k, 1, false}, scale.data(), bias.data(), {});
  const double operations = 2.0 * static_cast<double>(s.m) * static_cast<double>(s.k) * static_cast<double>(s.n);
  const int calls = std::max(1, static_cast<int>(1e9 / operations));
  std::vector<double> limits[std::size(kContenders)], rates[std::size(kContenders)];
  for (int round = -1; round < kRounds; ++round) {
    for (std::size_t i = 0; i < std::size(kContenders); ++i) {
      const Contender& c = kContenders[i];
      if (!missing_features(*find_kernel(c.kernel)).empty()) continue;
      force_kernel(find_kernel(c.kernel));
      const double at_most = seconds(c.registers_only), taken = seconds([&] {
                                                          for (int call = 0; call < calls; ++call)
                                                            layer(x.data(), s.m, s.k, y.data(), s.n);
                                                        });
      if (round < 0) continue;  // warms up
      limits[i].push_back(c.operations_per_step * kSteps / at_most / 1e12);
      rates[i].push_back(operations * calls / taken / 1e12);
    }
  }
  for (std::size_t i = 0; i < std::size(kContenders); ++i) {
    if (rates[i].empty()) continue;
    const double limit = median(limits[i]), rate = median(rates[i]);
    const double best = *std::max_element(rates[i].begin(), rates[i].end());
    std::printf("| %ld x %ld x %ld | %s | %.3f | %.3f | %.0f %% | %.0f %% |\n", static_cast<long>(s.m),
                static_cast<long>(s.k), static_cast<long>(s.n), kContenders[i].kernel, rate, limit, 100 * rate / limit,
                100 * best / limit);
  }
}

}  // namespace

int main(int argc, char** argv) {
  octavo::set_num_threads(1);
  std::vector<Shape> shapes;
  for (int i = 1; i + 2 < argc; i += 3) {
    shapes.push_back({std::atol(argv[i]), std::atol(argv[i + 1]), std::atol(argv[i + 2])});
  }
  if (shapes.empty()) {
    shapes = {{128, 768, 768}, {128, 768, 3072}, {512, 768, 3072}, {512, 3072, 768}, {512, 4096, 4096}};
  }
  std::printf("| M x K x N | kernel | TOPS | limit | share | best round |\n|---|---|---|---|---|---|\n");
  for (const Shape& shape : shapes) measure(shape);
  return 0;
}
