// The machine's own limits, which no kernel passes: arithmetic from registers, reads, writes, fresh pages, wake-up.
//
//     g++ -O2 -std=c++20 -pthread -o build/limits_x86 bench/limits/limits_x86.cpp && build/limits_x86 [--json FILE]
//     [THREADS...]
//
// Takes about 15 seconds; THREADS is 1 and the number of CPUs where none is given. A figure is the median of nine runs
// of 20 ms; behind it the slowest and the fastest. Needs no -march: what this CPU or its operating system lacks is left
// out. One operation is one multiply or one add.
//
// Threads start together, each on data of its own, and a figure of several threads is the sum of what they did over the
// time from the first start to the last end.
#include <cpuid.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "core_mode.h"
#include "rates.h"

namespace {

// ---- what may run here ---------------------------------------------------------------------------------------------

struct Features {
  bool avx2 = false, fma = false, avx_vnni = false, avx512 = false, avx512_vnni = false, amx_int8 = false;
};

Features detect() {
  Features f;
  unsigned a = 0, b = 0, c = 0, d = 0, a1 = 0, b1 = 0, c1 = 0, d1 = 0;
  if (!__get_cpuid(1, &a1, &b1, &c1, &d1) || (c1 & (1u << 27)) == 0) return f;
  unsigned low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & 0x6) != 0x6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return f;
  f.avx2 = (b & (1u << 5)) != 0;
  f.fma = (c1 & (1u << 12)) != 0;
  const bool zmm = (low & 0xe6) == 0xe6;
  f.avx512 = zmm && (b & (1u << 16)) != 0 && (b & (1u << 31)) != 0;
  f.avx512_vnni = f.avx512 && (c & (1u << 11)) != 0;
  const bool amx = (low & 0x60000) == 0x60000 && (d & (1u << 24)) != 0 && (d & (1u << 25)) != 0;
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) f.avx_vnni = (a & (1u << 4)) != 0;
#if defined(SYS_arch_prctl)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  f.amx_int8 = amx && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#endif
  return f;
}

// ---- arithmetic ----------------------------------------------------------------------------------------------------

// One instruction sequence for each accumulator, spelt out: an array in C++ would have to be kept in registers first.
// The compiler, which is given no instruction set beyond SSE2, keeps nothing in the registers named here that it does
// not know of.
#define FOR_12(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11)
#define FOR_24(f) FOR_12(f) f(12) f(13) f(14) f(15) f(16) f(17) f(18) f(19) f(20) f(21) f(22) f(23)

#define CLOBBERED                                                                                                      \
  "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", \
      "xmm13", "xmm14", "xmm15"

// `name`: a Work that runs `body` once a step. All accumulators and operands start at zero: floats stay normal.
#define LOOP(name, body)                                                             \
  void name(int, std::int64_t steps) {                                               \
    __asm__ volatile("vzeroall" : : : CLOBBERED);                                    \
    for (std::int64_t i = 0; i < steps; ++i) __asm__ volatile(body : : : CLOBBERED); \
    __asm__ volatile("vzeroupper" : : : CLOBBERED);                                  \
  }

#define DOT_512(r) "vpdpbusd %%zmm24, %%zmm25, %%zmm" #r "\n\t"
#define DOT_256(r) "vpdpbusd %%ymm24, %%ymm25, %%ymm" #r "\n\t"
#define DOT_VEX(r) "%{vex%} vpdpbusd %%ymm12, %%ymm13, %%ymm" #r "\n\t"
#define MADD(r) "vpmaddwd %%ymm12, %%ymm13, %%ymm14\n\tvpaddd %%ymm14, %%ymm" #r ", %%ymm" #r "\n\t"
#define MADDUBS(r)                                                                                         \
  "vpmaddubsw %%ymm12, %%ymm13, %%ymm14\n\tvpmaddwd %%ymm15, %%ymm14, %%ymm14\n\tvpaddd %%ymm14, %%ymm" #r \
  ", %%ymm" #r "\n\t"
#define FMA_512(r) "vfmadd231ps %%zmm24, %%zmm25, %%zmm" #r "\n\t"
#define FMA_256(r) "vfmadd231ps %%ymm12, %%ymm13, %%ymm" #r "\n\t"
LOOP(dot_512, FOR_24(DOT_512))
LOOP(dot_256, FOR_24(DOT_256))
LOOP(dot_vex, FOR_12(DOT_VEX))
LOOP(madd, FOR_12(MADD))
LOOP(maddubs, FOR_12(MADDUBS))
LOOP(fma_512, FOR_24(FMA_512))
LOOP(fma_256, FOR_12(FMA_256))

// Steps of the avx2 kernel, 8 k of 9 rows by 8 columns, from L1: two lines are taken apart into sizes and signs, and
// each row's products of the two are added before they are widened, or widened one by one.
#define FOR_9(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8)
#define LOAD_LINES                                                                       \
  "vpxor %%xmm14, %%xmm14, %%xmm14\n\tvpabsb (%0), %%ymm9\n\tvpabsb 64(%0), %%ymm10\n\t" \
  "vpcmpgtb (%0), %%ymm14, %%ymm11\n\tvpcmpgtb 64(%0), %%ymm14, %%ymm12\n\t"
#define ROW_PRODUCTS(r)                                                    \
  "vpbroadcastd 8*" #r "(%1), %%ymm14\n\tvpbroadcastd 8*" #r               \
  "+4(%1), %%ymm15\n\t"                                                    \
  "vpxor %%ymm11, %%ymm14, %%ymm14\n\tvpxor %%ymm12, %%ymm15, %%ymm15\n\t" \
  "vpmaddubsw %%ymm14, %%ymm9, %%ymm14\n\tvpmaddubsw %%ymm15, %%ymm10, %%ymm15\n\t"
#define ADD_WIDENED(products, r) \
  "vpmaddwd %%ymm13, %%" products ", %%" products "\n\tvpaddd %%" products ", %%ymm" #r ", %%ymm" #r "\n\t"
#define ROW_IN_PAIRS(r) ROW_PRODUCTS(r) "vpaddw %%ymm15, %%ymm14, %%ymm14\n\t" ADD_WIDENED("ymm14", r)
#define ROW_ONE_BY_ONE(r) ROW_PRODUCTS(r) ADD_WIDENED("ymm14", r) ADD_WIDENED("ymm15", r)
#define STEPS(name, row)                                                                          \
  void name(int, std::int64_t steps) {                                                            \
    alignas(64) static const std::array<std::uint8_t, 128> lines{}, lhs{};                        \
    __asm__ volatile("vzeroall" : : : CLOBBERED);                                                 \
    for (std::int64_t i = 0; i < steps; ++i) {                                                    \
      __asm__ volatile(LOAD_LINES FOR_9(row) : : "r"(lines.data()), "r"(lhs.data()) : CLOBBERED); \
    }                                                                                             \
    __asm__ volatile("vzeroupper" : : : CLOBBERED);                                               \
  }
STEPS(avx2_step_pairs, ROW_IN_PAIRS)
STEPS(avx2_step_single, ROW_ONE_BY_ONE)

// Steps of the avx2 kernel for grouped codes, 32 k of 4 rows by 16 columns, from L1: 8 lines of nibbles, and then for
// each of the 8 sums what turns it into floats with a scale, a minimum and a scale of the activations.
#define FOR_8(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7)
#define NIBBLE_ROW(r, first, second)                            \
  "vpbroadcastd " #r                                            \
  "*32(%1), %%ymm10\n\tvpmaddubsw %%ymm10, %%ymm8, %%ymm11\n\t" \
  "vpaddw %%ymm11, %%ymm" #first ", %%ymm" #first               \
  "\n\tvpmaddubsw %%ymm10, %%ymm9, %%ymm11\n\t"                 \
  "vpaddw %%ymm11, %%ymm" #second ", %%ymm" #second "\n\t"
#define NIBBLE_LINE(i)                                                                                      \
  "vpand " #i "*64(%0), %%ymm13, %%ymm8\n\tvpand " #i "*64+32(%0), %%ymm13, %%ymm9\n\t" NIBBLE_ROW(0, 0, 1) \
      NIBBLE_ROW(1, 2, 3) NIBBLE_ROW(2, 4, 5) NIBBLE_ROW(3, 6, 7)
#define NIBBLE_FLUSH(r)                                                                                       \
  "vpmaddwd %%ymm14, %%ymm" #r                                                                                \
  ", %%ymm8\n\tvcvtdq2ps %%ymm8, %%ymm8\n\tvfmadd132ps %%ymm12, %%ymm15, %%ymm8\n\t"                          \
  "vfmadd231ps %%ymm12, %%ymm15, %%ymm8\n\tvfmadd213ps " #r "*32(%2), %%ymm12, %%ymm8\n\tvmovaps %%ymm8, " #r \
  "*32(%2)\n\tvpxor %%xmm" #r ", %%xmm" #r ", %%xmm" #r "\n\t"
#define GROUPED_STEPS(name, body)                                                                  \
  void name(int, std::int64_t steps) {                                                             \
    alignas(64) static const std::array<std::uint8_t, 512> lines{}, lhs{};                         \
    alignas(64) std::array<float, 64> sums{};                                                      \
    __asm__ volatile("vzeroall" : : : CLOBBERED);                                                  \
    for (std::int64_t i = 0; i < steps; ++i) {                                                     \
      __asm__ volatile(body : : "r"(lines.data()), "r"(lhs.data()), "r"(sums.data()) : CLOBBERED); \
    }                                                                                              \
    __asm__ volatile("vzeroupper" : : : CLOBBERED);                                                \
  }
GROUPED_STEPS(nibble_step, FOR_8(NIBBLE_LINE))
GROUPED_STEPS(nibble_step_flushed, FOR_8(NIBBLE_LINE) FOR_8(NIBBLE_FLUSH))

// A thread's tiles from registers, or with a lhs of 12 steps in L1 and panels in L1 or L2.
using Tiles = void (*)(std::int64_t steps);
template <Tiles kTiles>
void tiles(int, std::int64_t steps) {
  kTiles(steps);
}
template <int kPanelKib>
void tile_steps(int, std::int64_t steps) {
  alignas(64) static thread_local char lhs[12 * 2048] = {}, rhs[kPanelKib << 10] = {};
  amx::steps_from(lhs, 12, rhs, sizeof rhs, steps);
}

// Of ten thousand probes, one every 0.1 ms or so, how many find the core in its slow mode.
void measure_core_mode() {
  int slow = 0;
  constexpr int kProbes = 10000;
  for (int i = 0; i < kProbes; ++i) {
    slow += amx::is_slow() ? 1 : 0;
    for (const auto start = Clock::now(); seconds_since(start) < 1e-4;) {
    }
  }
  report({"mode", "probes that find the tiles slow", "%", 1, 0, 0, 0, 0}, {100.0 * slow / kProbes});
}

void measure_arithmetic(const Features& f, int threads) {
  const auto measure = [threads](const char* name, double operations_per_step, const Work& work) {
    report({"arithmetic", name, "TOPS", threads, 0, 0, 0, 0}, rates(threads, operations_per_step, 1e-12, work));
  };
  if (f.amx_int8) {
    measure("TDPBSSD (AMX)", amx::kStepOperations, tiles<amx::dot_signed>);
    measure("TDPBUSD (AMX)", amx::kStepOperations, tiles<amx::dot_unsigned_signed>);
    measure("TDPBSUD (AMX)", amx::kStepOperations, tiles<amx::dot_signed_unsigned>);
    measure("amxint8 kernel's step, all from L1", amx::kStepOperations, tile_steps<8>);
    measure("amxint8 kernel's step, panels from L2", amx::kStepOperations, tile_steps<384>);
  }
  if (f.avx512_vnni) measure("VPDPBUSD 512", 24 * 64 * 2, dot_512);
  if (f.avx512_vnni) measure("VPDPBUSD 256 (EVEX)", 24 * 32 * 2, dot_256);
  if (f.avx_vnni) measure("VPDPBUSD 256 (AVX-VNNI)", 12 * 32 * 2, dot_vex);
  if (f.avx2) measure("VPMADDUBSW + VPMADDWD + VPADDD 256", 12 * 32 * 2, maddubs);
  if (f.avx2) measure("VPMADDWD + VPADDD 256", 12 * 16 * 2, madd);
  if (f.avx2) measure("avx2 kernel's step, lines in pairs", 9 * 8 * 8 * 2, avx2_step_pairs);
  if (f.avx2) measure("avx2 kernel's step, lines one by one", 9 * 8 * 8 * 2, avx2_step_single);
  if (f.avx2) measure("avx2 grouped step, nibbles", 4 * 16 * 32 * 2, nibble_step);
  if (f.avx2 && f.fma) measure("avx2 grouped step, with the flush", 4 * 16 * 32 * 2, nibble_step_flushed);
  if (f.avx512) measure("float32 FMA 512", 24 * 16 * 2, fma_512);
  if (f.fma) measure("float32 FMA 256", 12 * 8 * 2, fma_256);
}

// ---- memory --------------------------------------------------------------------------------------------------------

// Zeroed memory on huge pages, where the system gives them, as the packed weights have it, or on small ones.
class Region {
 public:
  static constexpr std::size_t kHugePage = std::size_t{2} << 20;
  explicit Region(std::size_t bytes, bool huge = true) : bytes_((bytes + kHugePage - 1) / kHugePage * kHugePage) {
    data_ = static_cast<char*>(std::aligned_alloc(kHugePage, bytes_));
    if (data_ == nullptr) std::abort();
    madvise(data_, bytes_, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    std::memset(data_, 0, bytes_);
  }
  Region(Region&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
  ~Region() { std::free(data_); }
  char* data() const { return data_; }

 private:
  char* data_;
  std::size_t bytes_;
};

template <int kVectorBytes, bool kPrefetch>
void read_512_bytes(const char* p) {
  if constexpr (kPrefetch) {
    for (int line = 0; line < 8; ++line) __builtin_prefetch(p + 4096 + 64 * line);
  }
  if constexpr (kVectorBytes == 64) {
    __asm__ volatile(
        "vmovdqa64 (%0), %%zmm0\n\tvmovdqa64 64(%0), %%zmm1\n\tvmovdqa64 128(%0), %%zmm2\n\tvmovdqa64 192(%0), "
        "%%zmm3\n\t"
        "vmovdqa64 256(%0), %%zmm4\n\tvmovdqa64 320(%0), %%zmm5\n\tvmovdqa64 384(%0), %%zmm6\n\t"
        "vmovdqa64 448(%0), %%zmm7"
        :
        : "r"(p)
        : CLOBBERED);
  } else {
    for (int half = 0; half < 2; ++half, p += 256) {
      __asm__ volatile(
          "vmovdqa (%0), %%ymm0\n\tvmovdqa 32(%0), %%ymm1\n\tvmovdqa 64(%0), %%ymm2\n\tvmovdqa 96(%0), %%ymm3\n\t"
          "vmovdqa 128(%0), %%ymm4\n\tvmovdqa 160(%0), %%ymm5\n\tvmovdqa 192(%0), %%ymm6\n\tvmovdqa 224(%0), %%ymm7"
          :
          : "r"(p)
          : CLOBBERED);
    }
  }
}

template <int kVectorBytes, bool kPrefetch>
void read_all(const char* data, std::int64_t bytes) {
  for (std::int64_t at = 0; at < bytes; at += 512) read_512_bytes<kVectorBytes, kPrefetch>(data + at);
  __asm__ volatile("vzeroupper" : : : CLOBBERED);
}

// Every thread reads its share of `bytes` over and over, as threads that split one weight do. The better of plain loads
// and loads with a prefetch 4 KB ahead.
void measure_read(const Features& f, int threads, const char* what, std::int64_t bytes, bool share, bool huge = true) {
  const std::int64_t each = (share ? bytes / threads : bytes) / 512 * 512;
  std::vector<Region> regions;
  for (int t = 0; t < threads; ++t) regions.emplace_back(static_cast<std::size_t>(each) + 8192, huge);
  std::vector<double> best;
  for (const auto reader :
       {f.avx512 ? read_all<64, false> : read_all<32, false>, f.avx512 ? read_all<64, true> : read_all<32, true>}) {
    auto values = rates(threads, static_cast<double>(each), 1e-9, [&](int t, std::int64_t steps) {
      for (std::int64_t i = 0; i < steps; ++i) reader(regions[t].data(), each);
    });
    std::sort(values.begin(), values.end());
    if (best.empty() || values[kRuns / 2] > best[kRuns / 2]) best = values;
  }
  report({"read", std::string("read ") + what, "GB/s", threads, bytes, 0, 0, 0}, best);
}

// Four-bit codes as one row of activations streams them, without scales: each register of nibbles is multiplied by one
// row of int8, or by the two that an int16 row is.
template <int kParts, int kAheadBytes, int kEveryLine>
void multiply_nibbles(const char* data, std::int64_t bytes, const char* row) {
  for (std::int64_t at = 0; at < bytes; at += 512) {
    const char* const q = row + at / 8 % 4096;
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      const char* const line = data + at + 64 * i;
      if (kAheadBytes != 0 && i % kEveryLine == 0) __builtin_prefetch(line + kAheadBytes, 0, 2);
      __asm__ volatile(
          "vmovdqa64 %0, %%zmm0\n\tvpandd %%zmm8, %%zmm0, %%zmm1\n\tvpsrlw $4, %%zmm0, %%zmm0\n\t"
          "vpandd %%zmm8, %%zmm0, %%zmm0\n\t"
          "vpdpbusd %1%{1to16%}, %%zmm1, %%zmm4\n\tvpdpbusd %2%{1to16%}, %%zmm0, %%zmm5"
          :
          : "m"(*line), "m"(q[4 * i]), "m"(q[32 + 4 * i])
          : CLOBBERED);
      if constexpr (kParts == 2) {
        __asm__ volatile("vpdpbusd %0%{1to16%}, %%zmm1, %%zmm6\n\tvpdpbusd %1%{1to16%}, %%zmm0, %%zmm7"
                         :
                         : "m"(q[4096 + 4 * i]), "m"(q[4128 + 4 * i])
                         : CLOBBERED);
      }
    }
  }
  __asm__ volatile("vzeroupper" : : : CLOBBERED);
}

// From memory: the best of no prefetch, every other line 4 KB ahead, and each line 12 KB ahead.
template <int kParts>
void measure_nibbles(int threads, const char* what) {
  constexpr std::int64_t kBytes = 64 << 20;
  std::vector<Region> regions, rows;
  for (int t = 0; t < threads; ++t) {
    regions.emplace_back(static_cast<std::size_t>(kBytes) + 16384);
    rows.emplace_back(16384);
  }
  std::vector<double> best;
  for (const auto run :
       {multiply_nibbles<kParts, 0, 1>, multiply_nibbles<kParts, 4096, 2>, multiply_nibbles<kParts, 12288, 1>}) {
    auto values = rates(threads, static_cast<double>(kBytes), 1e-9, [&](int t, std::int64_t steps) {
      for (std::int64_t i = 0; i < steps; ++i) run(regions[t].data(), kBytes, rows[t].data());
    });
    std::sort(values.begin(), values.end());
    if (best.empty() || values[kRuns / 2] > best[kRuns / 2]) best = values;
  }
  report({"nibbles", what, "GB/s", threads, kBytes, 0, 0, 0}, best);
}

// Rows of 3072 floats, written front to back, or in pieces of 128 bytes column by column as a tile would write them.
void measure_write(int threads, const char* what, std::int64_t bytes, std::int64_t piece_bytes) {
  constexpr std::int64_t kRowBytes = 3072 * 4;
  const std::int64_t rows = bytes / kRowBytes / threads;
  std::vector<Region> regions;
  for (int t = 0; t < threads; ++t) regions.emplace_back(static_cast<std::size_t>(rows * kRowBytes));
  report({"write", std::string("write ") + what, "GB/s", threads, bytes, 0, 0, 0},
         rates(threads, static_cast<double>(rows * kRowBytes), 1e-9, [&](int t, std::int64_t steps) {
           for (std::int64_t i = 0; i < steps; ++i) {
             for (std::int64_t column = 0; column < kRowBytes; column += piece_bytes) {
               for (std::int64_t row = 0; row < rows; ++row) {
                 char* p = regions[t].data() + row * kRowBytes + column;
                 for (std::int64_t at = 0; at < piece_bytes; at += 64) {
                   __asm__ volatile("vmovdqa %%ymm0, (%0)\n\tvmovdqa %%ymm0, 32(%0)" : : "r"(p + at) : "memory");
                 }
               }
             }
           }
           __asm__ volatile("vzeroupper" : : : CLOBBERED);
         }));
}

// Milliseconds for a 512 x 3072 float result (6.3 MB) whose memory is new each time.
void measure_fresh_pages(bool huge) {
  constexpr std::size_t kBytes = 512 * 3072 * 4, kHuge = Region::kHugePage;
  std::vector<double> values;
  for (int i = 0; i < kRuns; ++i) {
    void* mapped = mmap(nullptr, kBytes + kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) std::abort();
    auto* data = reinterpret_cast<char*>((reinterpret_cast<std::uintptr_t>(mapped) + kHuge - 1) / kHuge * kHuge);
    madvise(data, kBytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    const auto start = Clock::now();
    for (std::size_t at = 0; at < kBytes; at += 4096) data[at] = 1;
    values.push_back(1e3 * seconds_since(start));
    munmap(mapped, kBytes + kHuge);
  }
  report({"pages", huge ? "touch 6.3 MB, huge pages" : "touch 6.3 MB, 4 KB pages", "ms", 1, kBytes, 0, 0, 0}, values);
}

// ---- threads -------------------------------------------------------------------------------------------------------

// Microseconds from a notice to the other thread's answer: asleep on a condition variable for 1 ms, or looking all the
// time.
void measure_wake_up(bool asleep) {
  std::mutex mutex;
  std::condition_variable wake;
  std::atomic<int> round{0}, answered{0};
  constexpr int kRounds = 200;
  std::thread other([&] {
    for (int i = 1; i <= kRounds; ++i) {
      if (asleep) {
        std::unique_lock<std::mutex> lock(mutex);
        wake.wait(lock, [&] { return round.load() >= i; });
      } else {
        while (round.load(std::memory_order_acquire) < i) {
        }
      }
      answered.store(i, std::memory_order_release);
    }
  });
  std::vector<double> values;
  for (int i = 1; i <= kRounds; ++i) {
    if (asleep) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    const auto start = Clock::now();
    {
      const std::lock_guard<std::mutex> lock(mutex);
      round.store(i, std::memory_order_release);
    }
    if (asleep) wake.notify_one();
    while (answered.load(std::memory_order_acquire) < i) {
    }
    values.push_back(1e6 * seconds_since(start));
  }
  other.join();
  std::sort(values.begin(), values.end());
  values.erase(values.end() - kRounds / 20, values.end());  // the twentieth that another process took the core from
  report({"threads", asleep ? "wake a sleeping thread" : "reach a spinning thread", "us", 2, 0, 0, 0, 0}, values);
}

// ---- the program ---------------------------------------------------------------------------------------------------

// Of the core that runs this, as Linux describes it: sysconf gives the whole socket's L3 on some machines.
std::int64_t cache_bytes(int level, std::int64_t otherwise) {
  for (int index = 0; index < 8; ++index) {
    const std::string folder = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/";
    std::ifstream level_file(folder + "level"), type_file(folder + "type"), size_file(folder + "size");
    int this_level = 0;
    std::int64_t kib = 0;
    std::string type;
    if (!(level_file >> this_level) || !(type_file >> type) || !(size_file >> kib)) break;
    if (this_level == level && type != "Instruction" && kib > 0) return kib << 10;
  }
  return otherwise;
}

void measure_memory(const Features& f, int threads) {
  if (!f.avx2) return;
  measure_read(f, threads, "L1 (half of it, each thread)", cache_bytes(1, 32 << 10) / 2, false);
  measure_read(f, threads, "L2 (half of it, each thread)", cache_bytes(2, 1 << 20) / 2, false);
  measure_read(f, threads, "0.6 MB (768 x 768)", 768 * 768, true);
  measure_read(f, threads, "2.4 MB (768 x 3072)", 768 * 3072, true);
  measure_read(f, threads, "L3 (a quarter of it)", cache_bytes(3, 16 << 20) / 4, true);
  measure_read(f, threads, "16.8 MB (4096 x 4096)", 4096 * 4096, true);
  measure_read(f, threads, "45 MB (4096 x 11008)", 4096 * 11008, true);
  measure_read(f, threads, "memory (512 MB)", std::int64_t{512} << 20, true);
  measure_read(f, threads, "memory (512 MB), pages of 4 KB", std::int64_t{512} << 20, true, false);
  measure_write(threads, "1.5 MB", 128 * 3072 * 4, 3072 * 4);
  measure_write(threads, "6.3 MB", 512 * 3072 * 4, 3072 * 4);
  measure_write(threads, "6.3 MB, 128-byte pieces by column", 512 * 3072 * 4, 128);
  measure_write(threads, "33.6 MB", 2736 * 3072 * 4, 3072 * 4);
  if (f.avx512_vnni) {
    measure_nibbles<1>(threads, "read nibbles, times an int8 row");
    measure_nibbles<2>(threads, "read nibbles, times an int16 row");
  }
}

bool write_json(const char* path) {
  std::FILE* file = std::fopen(path, "w");
  if (file == nullptr) return false;
  std::fprintf(file, "{\"figures\": [");
  for (std::size_t i = 0; i < g_figures.size(); ++i) {
    const Figure& g = g_figures[i];
    std::fprintf(file,
                 "%s\n  {\"group\": \"%s\", \"name\": \"%s\", \"threads\": %d, \"bytes\": %lld, \"unit\": \"%s\", "
                 "\"median\": %.6g, \"low\": %.6g, \"high\": %.6g}",
                 i == 0 ? "" : ",", g.group.c_str(), g.name.c_str(), g.threads, static_cast<long long>(g.bytes),
                 g.unit.c_str(), g.median, g.low, g.high);
  }
  std::fprintf(file, "\n]}\n");
  return std::fclose(file) == 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<int> thread_counts;
  const char* json = nullptr;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--json") == 0 && i + 1 < argc) {
      json = argv[++i];
    } else if (const int n = std::atoi(argv[i]); n > 0 && n <= 1024) {
      thread_counts.push_back(n);
    } else {
      std::fprintf(stderr, "usage: limits_x86 [--json FILE] [THREADS...]\n");
      return 2;
    }
  }
  if (thread_counts.empty()) {
    thread_counts = {1};
    const int cpus = static_cast<int>(std::thread::hardware_concurrency());
    if (cpus > 1) thread_counts.push_back(cpus);
  }
  const Features features = detect();
  for (const int threads : thread_counts) {
    measure_arithmetic(features, threads);
    measure_memory(features, threads);
  }
  if (features.amx_int8) measure_core_mode();
  measure_fresh_pages(false);
  measure_fresh_pages(true);
  measure_wake_up(true);
  measure_wake_up(false);
  if (json != nullptr && !write_json(json)) {
    std::fprintf(stderr, "limits_x86: cannot write %s\n", json);
    return 1;
  }
  return 0;
}
