// Memory for large results, kept for the next result of about that size.
//
// A fresh page costs a fault and 4 KB of zeros the first time it is written; for a large result that takes about as
// long as the arithmetic of a small-K layer. So a block whose array has died waits here, and the next result of its
// size class takes it, pages, huge pages, cache lines and all.
//
// Bounded: blocks that wait hold at most max_bytes() together, and the ones that have waited longest are freed to keep
// it so. Blocks in use are their arrays' and count nowhere. All functions may be called from any thread, and on both
// sides of a fork.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/aligned_buffer.h"

namespace octavo {

// Results below this come from the usual allocator. It keeps memory of its own below 128 KiB (glibc's threshold for
// mapping pages), and a few hundred KiB cost few faults.
inline constexpr std::size_t kSmallestPooledBytes = std::size_t{256} << 10;

inline constexpr std::size_t kDefaultPoolBytes = std::size_t{128} << 20;

// Gives its block back to the pool.
struct GiveBack {
  void operator()(AlignedBuffer* block) const noexcept;
};
using ResultBlock = std::unique_ptr<AlignedBuffer, GiveBack>;

// At least `bytes` of uninitialised memory, aligned as AlignedBuffer is. Null where the pool is not for this: it is
// switched off, or bytes are below kSmallestPooledBytes or above max_bytes. std::bad_alloc where there is no memory;
// std::invalid_argument where OCTAVO_RESULT_POOL_BYTES is no number.
ResultBlock take_result_block(std::size_t bytes);

struct ResultPoolState {
  std::size_t max_bytes;
  std::size_t idle_bytes;  // held by blocks that wait
  std::size_t idle_blocks;
};
ResultPoolState result_pool_state();

// Starts as OCTAVO_RESULT_POOL_BYTES, else as kDefaultPoolBytes; 0 switches the pool off. Frees what exceeds it.
void set_result_pool_bytes(std::size_t max_bytes);

// Frees all blocks that wait.
void clear_result_pool();

}  // namespace octavo
