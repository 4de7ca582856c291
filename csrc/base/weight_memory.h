// Memory for packed weights, whose neighbours share huge pages.
//
// Weights are read front to back on every call. On pages of 4 KB each page costs a TLB miss, and the hardware's
// prefetching ends with it. A layer of less than 2 MB does not fill a huge page by itself, so blocks are cut from
// regions, one after the other:
//
//       region      | block | block |   block   | block |      not used yet     |
//       huge pages  |               |               |               |           |
//
// Small pages are joined to a huge one when the block behind it is made, so a process holds its weights and no more. A
// freed block goes back to the system at once, and its addresses are not used again: what shares a huge page with it is
// on small pages from then on. Of the latest region up to 16 MB are addresses that are not used yet.
#pragma once

#include <cstddef>
#include <utility>

#include "base/aligned_buffer.h"

namespace octavo {

// Zeros at first, aligned as AlignedBuffer is; movable, never copied. Any thread may make and free them, on both sides
// of a fork.
class WeightMemory {
 public:
  // Smaller blocks, and those of fewer than 16 pages, come from the usual allocator. Whole pages take 3 % more at this
  // size, on average.
  static constexpr std::size_t kSmallestBytes = std::size_t{64} << 10;

  WeightMemory() = default;
  explicit WeightMemory(std::size_t bytes);
  WeightMemory(WeightMemory&& other) noexcept { *this = std::move(other); }
  WeightMemory& operator=(WeightMemory&& other) noexcept {
    std::swap(pages_, other.pages_);
    std::swap(pages_bytes_, other.pages_bytes_);
    std::swap(small_, other.small_);
    return *this;
  }
  ~WeightMemory();

  std::byte* data() const { return pages_ != nullptr ? pages_ : small_.as<std::byte>(); }

 private:
  std::byte* pages_ = nullptr;
  std::size_t pages_bytes_ = 0;
  AlignedBuffer small_;
};

}  // namespace octavo
