#include "base/weight_memory.h"

#include <algorithm>
#include <new>

#include "base/pages.h"
#include "base/threads.h"

namespace octavo {

#if defined(OCTAVO_OWN_PAGES)

namespace {

// A new region is as large as all blocks together, up to this. What is not used of it costs addresses, and memory only
// where a process locks all that it maps.
constexpr std::size_t kLargestRegion = std::size_t{16} << 20;

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
    const std::size_t wanted = round_up(std::min(used_, kLargestRegion), kHugePage);
    std::size_t bytes = std::max(fewest, wanted);
    std::byte* region = map_pages(bytes, true);
    if (region == nullptr) region = map_pages(bytes = fewest, true);  // the process may have few addresses left
    if (region == nullptr) throw std::bad_alloc();
    madvise(region, bytes, used_ != 0 || bytes > kHugePage ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);  // a hint
    if (left_ != 0) unmap_pages(next_, left_);
    next_ = region;
    left_ = bytes;
  }

  Mutex mutex_;
  std::byte* next_ = nullptr;  // of the latest region: what is not used yet
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
