// Tile instructions for benchmarks: what their limits are, and which of a core's two modes it is in.
//
// A core with AMX that shares its tile registers, most likely with another tenant on its other hyperthread, switches
// within milliseconds between two speeds. A step of 2 x 2 tiles with its loads takes five times as long in the slow
// mode, and the multiplications alone as long as ever. So a sample means something only beside a probe right before and
// right after it.
#pragma once

#include <x86intrin.h>

#include <cstdint>
#include <cstring>

namespace amx {

// 2 by 2 tiles of 16 rows by 64 bytes: tiles 0 to 3 sum, 4 and 5 times 6 and 7.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

class Tiles {
 public:
  Tiles() {
    static const TileConfig config;
    __asm__ volatile("ldtilecfg %0" : : "m"(config));
    __asm__ volatile(
        "tilezero %%tmm0\n\ttilezero %%tmm1\n\ttilezero %%tmm2\n\ttilezero %%tmm3\n\t"
        "tilezero %%tmm4\n\ttilezero %%tmm5\n\ttilezero %%tmm6\n\ttilezero %%tmm7" ::);
  }
  ~Tiles() { __asm__ volatile("tilerelease" ::); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

constexpr double kStepOperations = 4 * 2 * 16 * 16 * 64;

// A step from registers, by an instruction's name.
#define AMX_STEP(name)                                                                        \
  __asm__ volatile(name " %%tmm6, %%tmm4, %%tmm0\n\t" name " %%tmm7, %%tmm4, %%tmm1\n\t" name \
                        " %%tmm6, %%tmm5, %%tmm2\n\t" name " %%tmm7, %%tmm5, %%tmm3" ::)

inline void dot_signed(std::int64_t steps) {
  const Tiles tiles;
  for (std::int64_t i = 0; i < steps; ++i) AMX_STEP("tdpbssd");
}
inline void dot_unsigned_signed(std::int64_t steps) {
  const Tiles tiles;
  for (std::int64_t i = 0; i < steps; ++i) AMX_STEP("tdpbusd");
}
inline void dot_signed_unsigned(std::int64_t steps) {
  const Tiles tiles;
  for (std::int64_t i = 0; i < steps; ++i) AMX_STEP("tdpbsud");
}

// The amxint8 kernel's step, with its loads: two tiles of the lhs, which come round again soon, and two of the rhs by
// TILELOADDT1.
inline void step(const char* lhs, const char* rhs, std::int64_t other_panel) {
  __asm__ volatile(
      "tileloadd (%0,%3,1), %%tmm4\n\ttileloaddt1 (%1,%3,1), %%tmm6\n\ttdpbssd %%tmm6, %%tmm4, %%tmm0\n\t"
      "tileloadd 1024(%0,%3,1), %%tmm5\n\ttdpbssd %%tmm6, %%tmm5, %%tmm2\n\t"
      "tileloaddt1 (%2,%3,1), %%tmm6\n\ttdpbssd %%tmm6, %%tmm4, %%tmm1\n\ttdpbssd %%tmm6, %%tmm5, %%tmm3"
      :
      : "r"(lhs), "r"(rhs), "r"(rhs + other_panel), "r"(std::int64_t{64})
      : "memory");
}

// Steps over a lhs of `depth` steps, and a rhs of `bytes` that are gone through again and again.
inline void steps_from(const char* lhs, std::int64_t depth, const char* rhs, std::int64_t bytes, std::int64_t steps) {
  const Tiles tiles;
  std::int64_t at = 0, in_row = 0;
  for (std::int64_t i = 0; i < steps; ++i) {
    step(lhs + 2048 * in_row, rhs + at, bytes / 2);
    if (++in_row == depth) in_row = 0;
    if ((at += 1024) == bytes / 2) at = 0;
  }
}

// Cycles of the time stamp counter that 20 steps take: from registers, or with loads from L1.
inline std::uint64_t probe_cycles(bool loads) {
  alignas(64) static const char data[4096] = {};
  const Tiles tiles;
  const std::uint64_t start = __rdtsc();
  for (int i = 0; i < 20; ++i) {
    if (loads) {
      step(data, data + 2048, 1024);
    } else {
      AMX_STEP("tdpbssd");
    }
  }
  alignas(64) char sums[1024];
  __asm__ volatile("tilestored %%tmm0, (%0,%1,1)" : : "r"(sums), "r"(std::int64_t{64}) : "memory");
  return __rdtsc() - start;
}

// Whether the core is in its slow mode now: steps with loads take more than 1.7 times the least that those from
// registers have taken. Call it now and then before what it says counts.
inline bool is_slow() {
  static const std::uint64_t least = [] {
    std::uint64_t cycles = ~std::uint64_t{0};
    for (int i = 0; i < 200; ++i) {
      const std::uint64_t now = probe_cycles(false);
      if (now < cycles) cycles = now;
    }
    return cycles;
  }();
  return static_cast<double>(probe_cycles(true)) > 1.7 * static_cast<double>(least);
}

}  // namespace amx
