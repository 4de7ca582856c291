#include "base/result_pool.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "base/threads.h"

namespace octavo {
namespace {

// Four size classes for each power of two: a block is at most a quarter larger than the request. The untouched end of a
// new block costs addresses, not memory.
std::size_t size_class(std::size_t bytes) {
  const std::size_t step = std::bit_ceil(bytes) / 8;
  return (bytes + step - 1) / step * step;
}

std::size_t initial_max_bytes() {
  const char* text = std::getenv("OCTAVO_RESULT_POOL_BYTES");
  if (text == nullptr || *text == '\0') return kDefaultPoolBytes;
  const char* end = text + std::strlen(text);
  std::int64_t bytes = 0;
  const auto [stopped_at, error] = std::from_chars(text, end, bytes);
  if (error != std::errc{} || stopped_at != end || bytes < 0) {
    throw std::invalid_argument(std::string("OCTAVO_RESULT_POOL_BYTES must be a whole number of bytes, got \"") + text +
                                "\"; 0 switches the pool of large results off");
  }
  return static_cast<std::size_t>(bytes);
}

// Never destroyed, as the pool. Held across fork, so that the child does not inherit a lock whose owner is gone, nor a
// list half changed.
Mutex& g_mutex = *new Mutex;
[[maybe_unused]] const bool g_held_across_fork =
    at_fork([] { g_mutex.lock(); }, [] { g_mutex.unlock(); }, [] { g_mutex.unlock(); });

using Blocks = std::vector<AlignedBuffer>;

// Blocks in the order in which they came back, the latest last. At most a few hundred wait (max_bytes over the smallest
// size), so a scan is shorter than one page fault.
class Pool {
 public:
  explicit Pool(std::size_t max_bytes) : max_bytes_(max_bytes) {}

  // Null where the pool does not serve this size.
  std::unique_ptr<AlignedBuffer> take(std::size_t bytes) {
    auto block = std::make_unique<AlignedBuffer>();
    std::size_t size = 0;
    {
      const Lock lock(g_mutex);
      if (bytes > max_bytes_ || (size = size_class(bytes)) > max_bytes_) return nullptr;
      // The latest of its size, whose lines are the most likely to be in cache still.
      const auto found =
          std::find_if(idle_.rbegin(), idle_.rend(), [&](const AlignedBuffer& b) { return b.size_bytes() == size; });
      if (found != idle_.rend()) {
        *block = std::move(*found);
        idle_.erase(std::next(found).base());
        idle_bytes_ -= size;
      }
    }
    block->reserve(size);
    return block;
  }

  void give(AlignedBuffer block) {
    Blocks freed;  // outlives the lock: returning pages to the system is as slow as getting them
    const Lock lock(g_mutex);
    const std::size_t bytes = block.size_bytes();
    idle_.push_back(std::move(block));
    idle_bytes_ += bytes;
    freed = shrink_to(max_bytes_);
  }

  void set_max_bytes(std::size_t max_bytes) {
    Blocks freed;
    const Lock lock(g_mutex);
    max_bytes_ = max_bytes;
    freed = shrink_to(max_bytes);
  }

  void clear() {
    Blocks freed;
    const Lock lock(g_mutex);
    freed = shrink_to(0);
  }

  ResultPoolState state() {
    const Lock lock(g_mutex);
    return {max_bytes_, idle_bytes_, idle_.size()};
  }

 private:
  // The blocks that have waited longest, taken out until the rest holds at most `bytes`. Where there is no memory for
  // their list, nothing has changed.
  Blocks shrink_to(std::size_t bytes) {
    std::size_t left = idle_bytes_;
    auto keep = idle_.begin();
    for (; left > bytes; ++keep) left -= keep->size_bytes();
    Blocks freed(std::make_move_iterator(idle_.begin()), std::make_move_iterator(keep));
    idle_.erase(idle_.begin(), keep);
    idle_bytes_ = left;
    return freed;
  }

  std::size_t max_bytes_;
  std::size_t idle_bytes_ = 0;
  Blocks idle_;
};

// Never destroyed: arrays may die after static objects do.
Pool& pool() {
  static Pool& pool = *new Pool(initial_max_bytes());
  return pool;
}

}  // namespace

void GiveBack::operator()(AlignedBuffer* block) const noexcept {
  const std::unique_ptr<AlignedBuffer> owned(block);
  try {
    pool().give(std::move(*owned));
  } catch (const std::bad_alloc&) {
    // No memory for the list to grow: the block is freed instead.
  }
}

ResultBlock take_result_block(std::size_t bytes) {
  if (bytes < kSmallestPooledBytes) return nullptr;
  return ResultBlock(pool().take(bytes).release());
}

ResultPoolState result_pool_state() { return pool().state(); }
void set_result_pool_bytes(std::size_t max_bytes) { pool().set_max_bytes(max_bytes); }
void clear_result_pool() { pool().clear(); }

}  // namespace octavo
