// How a product is cut into tasks, whatever its kernel: by rows where there are many, else by columns.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/arch.h"
#include "base/thread_pool.h"

namespace octavo {

// Multiply-adds below which a call stays on its thread: waking a worker takes 5-50 us, and this is about 30 us of AVX2.
inline constexpr double kSerialWork = 2e6;

// Blocks a thread is given on average where columns are split, so that a thread that falls behind takes fewer.
inline constexpr std::int64_t kColumnBlocksPerThread = 4;

// Rows of a block at most: beyond this the panels' traffic is already small, and scratch would grow.
inline constexpr std::int64_t kMaxBlockRows = 512;

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
inline std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }

inline int plan_threads(std::int64_t m, std::int64_t n, std::int64_t k) {
  const double work = static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  return work < kSerialWork ? 1 : num_threads();
}

// Whether rows are split: where every thread gets a good block of them.
inline bool plan_splits_rows(std::int64_t m, std::int64_t mr, int threads) { return m >= threads * 4 * mr; }

// A multiple of mr; packed, a block fills half of the L2 cache at most.
inline std::int64_t plan_rows_per_block(std::int64_t m, std::int64_t row_bytes, std::int64_t mr, int threads) {
  const std::int64_t fit = static_cast<std::int64_t>(cache_sizes().l2_bytes) / 2 / row_bytes;
  const std::int64_t most = std::clamp<std::int64_t>(fit / mr * mr, mr, kMaxBlockRows);
  const std::int64_t wanted_blocks = round_up(ceil_div(m, most), threads);
  return round_up(ceil_div(m, wanted_blocks), mr);
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
