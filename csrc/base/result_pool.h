// Memory for large results, and for what a call packs, kept for the next of about that size.
//
// Writing to a fresh page costs a fault and 4 KB of zeros; for a large result that takes about as long as the
// arithmetic of a layer with small K. So when an array dies its block waits here, and the next result of its size class
// takes it over with its pages, huge pages and cache lines.
//
// The blocks that wait hold at most max_bytes together; those that have waited longest are freed to keep it so. Blocks
// in use belong to their arrays and are not counted. All functions may be called from any thread, and on both sides of
// a fork.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/aligned_buffer.h"

namespace octavo {

// Smaller results come from the usual allocator, which reuses memory below 128 KiB itself (glibc's threshold for
// mapping pages). A few hundred KiB cost few faults.
inline constexpr std::size_t kSmallestPooledBytes = std::size_t{256} << 10;

inline constexpr std::size_t kDefaultPoolBytes = std::size_t{128} << 20;

// Gives its block back to the pool.
struct GiveBack {
  void operator()(AlignedBuffer* block) const noexcept;
};
using ResultBlock = std::unique_ptr<AlignedBuffer, GiveBack>;

// At least `bytes` of uninitialised memory, aligned as AlignedBuffer is. Null where the pool does not serve this size:
// below kSmallestPooledBytes, above max_bytes, or any where the pool is off. std::bad_alloc where there is no memory;
// std::invalid_argument where OCTAVO_RESULT_POOL_BYTES is not a number.
ResultBlock take_result_block(std::size_t bytes);

// Memory of one call: a block of the pool, which the next call finds with its pages, or where the pool does not serve
// the size, memory that goes back to the system.
class CallMemory {
 public:
  // Makes room for `bytes`; what was inside is lost when it has to grow.
  void reserve(std::size_t bytes) {
    if (bytes <= size_bytes()) return;
    block_ = take_result_block(bytes);
    if (block_ == nullptr) own_.reserve(bytes);
  }
  template <class T>
  T* as() const {
    return (block_ != nullptr ? *block_ : own_).as<T>();
  }
  std::size_t size_bytes() const { return (block_ != nullptr ? *block_ : own_).size_bytes(); }

 private:
  ResultBlock block_;
  AlignedBuffer own_;
};

struct ResultPoolState {
  std::size_t max_bytes;
  std::size_t idle_bytes;  // of blocks that wait
  std::size_t idle_blocks;
};
ResultPoolState result_pool_state();

// Starts as OCTAVO_RESULT_POOL_BYTES, else as kDefaultPoolBytes; 0 switches the pool off. Frees what exceeds it.
void set_result_pool_bytes(std::size_t max_bytes);

// Frees all blocks that wait.
void clear_result_pool();

}  // namespace octavo
