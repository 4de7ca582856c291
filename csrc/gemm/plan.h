// How a product is cut into tasks, whatever its kernel: by rows where there are many, else by columns.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/arch.h"
#include "base/features.h"
#include "base/thread_pool.h"

namespace octavo {

// Microseconds of work below which a call stays on its thread. A worker that still looks for work joins within one; one
// that sleeps takes 5-50, during which the caller goes on by itself. On an AMD EPYC (Zen 4) two threads gained from
// about 35 us on where calls follow each other, and from about 150 us on where the worker had fallen asleep.
inline constexpr double kSerialMicroseconds = 30;

// Blocks a thread is given on average where columns are split, so that a thread that falls behind takes fewer.
inline constexpr std::int64_t kColumnBlocksPerThread = 4;

// Rows of a block at most: beyond this the panels' traffic is already small, and scratch would grow.
inline constexpr std::int64_t kMaxBlockRows = 512;

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
inline std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }

// What one thread does in a microsecond, within a factor of two or so: multiply-adds of a kernel with these features,
// and bytes of weights that come out of the outer caches.
inline double multiply_adds_per_us(std::uint32_t features) {
  if ((features & kFeatureAmxInt8) != 0) return 1.5e6;
  if ((features & kFeatureAvx512Vnni) != 0) return 2e5;
  if ((features & (kFeatureAvxVnni | kFeatureI8mm)) != 0) return 1.5e5;
  if ((features & (kFeatureAvx2 | kFeatureDotprod)) != 0) return 7e4;
  return (features & kFeatureNeon) != 0 ? 2e4 : 5e3;
}
inline constexpr double kWeightBytesPerUs = 5e4;

inline int plan_threads(std::uint32_t features, std::int64_t m, std::int64_t n, std::int64_t k) {
  const double weight_bytes = static_cast<double>(n) * static_cast<double>(k);
  const double us = std::max(static_cast<double>(m) * weight_bytes / multiply_adds_per_us(features),
                             weight_bytes / kWeightBytesPerUs);
  return us < kSerialMicroseconds ? 1 : num_threads();
}

// Whether rows are split: where every thread gets a good block of them.
inline bool plan_splits_rows(std::int64_t m, std::int64_t mr, int threads) { return m >= threads * 4 * mr; }

// Packed, a block fills half of the L2 cache at most. Blocks are multiples of mr where that leaves them about even: 128
// rows for two threads are 64 + 64, not 72 + 56, which took a tenth longer with mr = 12.
inline std::int64_t plan_rows_per_block(std::int64_t m, std::int64_t row_bytes, std::int64_t mr, int threads) {
  const std::int64_t fit = static_cast<std::int64_t>(cache_sizes().l2_bytes) / 2 / row_bytes;
  const std::int64_t most = std::clamp<std::int64_t>(fit / mr * mr, mr, kMaxBlockRows);
  const std::int64_t even = ceil_div(m, round_up(ceil_div(m, most), threads)), whole = round_up(even, mr);
  return threads > 1 && whole - even > even / 16 ? even : whole;
}

inline std::int64_t plan_column_blocks(std::int64_t panels, int threads) {
  return threads == 1 ? 1 : std::min(panels, threads * kColumnBlocksPerThread);
}

inline void run_tasks(int threads, std::int64_t count, IndexFunction body) {
  if (threads > 1) {
    parallel_for(count, body);
  } else {
    for (std::int64_t i = 0; i < count; ++i) body(i);
  }
}

}  // namespace octavo
