// What the vector units give when nothing is loaded or stored: the limit of the x86 kernels' inner loops.
//
//     g++ -O2 -march=native -o /tmp/limits_x86 bench/limits_x86.cpp && /tmp/limits_x86
//
// Each loop keeps 12 or 24 independent accumulators in registers, as the kernels do. One operation is one multiply or
// one add of the products; the median of nine runs on one thread, in TOPS. Instruction sets that the compiler was not
// given are left out.
#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

namespace {

constexpr long kSteps = 20'000'000;

template <class Loop>
void report(const char* name, double operations_per_step, const Loop& loop) {
  double rates[9];
  for (double& rate : rates) {
    const auto start = std::chrono::steady_clock::now();
    loop();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    rate = operations_per_step * kSteps / taken.count() / 1e12;
  }
  std::sort(rates, rates + 9);
  std::printf("%-34s %.3f TOPS (%.3f to %.3f)\n", name, rates[4], rates[0], rates[8]);
}

}  // namespace

// One instruction sequence for each accumulator, spelt out: an array in C++ would have to be kept in registers first.
#define FOR_12(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11)
#define FOR_24(f) FOR_12(f) f(12) f(13) f(14) f(15) f(16) f(17) f(18) f(19) f(20) f(21) f(22) f(23)

#define CLOBBERED                                                                                                     \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", \
      "xmm14", "xmm15"

int main() {
#if defined(__AVX2__)
  report("VPMADDWD + VPADDD, 256 bit", 12 * 16 * 2, [] {
#define MADD(r) "vpmaddwd %%ymm12, %%ymm13, %%ymm14\n\tvpaddd %%ymm14, %%ymm" #r ", %%ymm" #r "\n\t"
    for (long i = 0; i < kSteps; ++i) __asm__ volatile(FOR_12(MADD) : : : CLOBBERED);
  });
#endif
#if defined(__AVX512VNNI__)
  report("VPDPBUSD, 512 bit", 24 * 64 * 2, [] {
#define DOT(r) "vpdpbusd %%zmm24, %%zmm25, %%zmm" #r "\n\t"
    for (long i = 0; i < kSteps; ++i) __asm__ volatile(FOR_24(DOT) : : : CLOBBERED);
  });
#endif
  return 0;
}
