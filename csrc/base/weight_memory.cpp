#include "base/weight_memory.h"

#include <algorithm>
#include <cstdint>
#include <new>

#include "base/pages.h"
#include "base/threads.h"

namespace octavo {

#if defined(OCTAVO_OWN_PAGES)

namespace {

// A new region is as large as all blocks together, up to this. What is not used of it costs addresses, and memory only
// where a process locks all that it maps.
constexpr std::size_t kLargestRegion = std::size_t{16} << 20;

std::byte* huge_page_of(std::byte* at) { return at - reinterpret_cast<std::uintptr_t>(at) % kHugePage; }

// Makes huge pages of the small ones in a range of whole huge pages, at once from Linux 6.1 on.
void make_huge(std::byte* begin, std::byte* end) {
  if (begin >= end) return;
  const auto bytes = static_cast<std::size_t>(end - begin);
  madvise(begin, bytes, MADV_HUGEPAGE);
  constexpr int kCollapse = 25;  // MADV_COLLAPSE, which older headers lack
  madvise(begin, bytes, kCollapse);
}

// Cuts blocks of whole pages from the latest region.
class Regions {
 public:
  std::byte* take(std::size_t bytes) {
    const Lock lock(mutex_);
    if (bytes > left_) start_region(bytes);
    std::byte* const block = next_;
    next_ += bytes;
    left_ -= bytes;
    used_ += bytes;
    fill_up_to(block);
    // Huge pages of the block alone are huge from the first touch.
    std::byte *const first = huge_page_of(block + kHugePage - 1), *const last = huge_page_of(next_);
    if (first < last) madvise(first, static_cast<std::size_t>(last - first), MADV_HUGEPAGE);
    return block;
  }

  void give(std::byte* block, std::size_t bytes) {
    unmap_pages(block, bytes);
    const Lock lock(mutex_);
    used_ -= bytes;
  }

  // Held across fork, so that the child does not inherit a lock whose owner is gone.
  Mutex& mutex() { return mutex_; }

 private:
  void start_region(std::size_t block_bytes) {
    const std::size_t fewest = round_up(block_bytes, kHugePage);
    std::size_t bytes = std::max(fewest, round_up(std::min(used_, kLargestRegion), kHugePage));
    std::byte* region = map_pages(bytes, true);
    if (region == nullptr) region = map_pages(bytes = fewest, true);  // the process may have few addresses left
    if (region == nullptr) throw std::bad_alloc();
    if (left_ != 0) unmap_pages(next_, left_);
    fill_up_to(next_);
    next_ = filled_ = region;
    left_ = bytes;
  }

  // Blocks before `end` are in use, so the pages that lie among them are whole.
  void fill_up_to(std::byte* end) {
    std::byte* const last = huge_page_of(end);
    make_huge(filled_, last);
    filled_ = std::max(filled_, last);
  }

  Mutex mutex_;
  std::byte* next_ = nullptr;    // of the latest region: what is not used yet
  std::byte* filled_ = nullptr;  // up to here its pages are huge
  std::size_t left_ = 0;
  std::size_t used_ = 0;  // by blocks, of all regions
};

// Never destroyed: layers may be made while static objects are torn down.
Regions& g_regions = *new Regions;
[[maybe_unused]] const bool g_held_across_fork =
    at_fork([] { g_regions.mutex().lock(); }, [] { g_regions.mutex().unlock(); }, [] { g_regions.mutex().unlock(); });

}  // namespace

WeightMemory::WeightMemory(std::size_t bytes) {
  if (bytes < std::max(kSmallestBytes, 16 * page_bytes())) {
    small_ = AlignedBuffer::zeros(bytes);
  } else {
    pages_bytes_ = whole_pages(bytes);
    pages_ = g_regions.take(pages_bytes_);
  }
}

WeightMemory::~WeightMemory() {
  if (pages_ != nullptr) g_regions.give(pages_, pages_bytes_);
}

#else

WeightMemory::WeightMemory(std::size_t bytes) : small_(AlignedBuffer::zeros(bytes)) {}
WeightMemory::~WeightMemory() = default;

#endif

}  // namespace octavo
