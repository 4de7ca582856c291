#include "base/weight_memory.h"

#include <algorithm>
#include <new>

#include "base/pages.h"
#include "base/threads.h"

namespace octavo {

#if defined(OCTAVO_OWN_PAGES)

namespace {

// A new region is as large as all before it together, up to this: what is not used of it costs addresses alone.
constexpr std::size_t kLargestRegion = std::size_t{64} << 20;

// Cuts blocks of whole pages from the latest region.
class Regions {
 public:
  std::byte* take(std::size_t bytes) {
    const Lock lock(mutex_);
    if (bytes > left_) start_region(bytes);
    std::byte* const block = next_;
    next_ += bytes;
    left_ -= bytes;
    return block;
  }

  // Held across fork, so that the child does not inherit a lock whose owner is gone.
  Mutex& mutex() { return mutex_; }

 private:
  void start_region(std::size_t block_bytes) {
    const std::size_t fewest = round_up(block_bytes, kHugePage);
    std::size_t bytes = std::max(fewest, std::min(total_bytes_, kLargestRegion));
    std::byte* region = map_pages(bytes, true);
    if (region == nullptr) region = map_pages(bytes = fewest, true);  // the process may have few addresses left
    if (region == nullptr) throw std::bad_alloc();
    if (total_bytes_ != 0 || bytes > kHugePage) madvise(region, bytes, MADV_HUGEPAGE);  // a hint
    if (left_ != 0) munmap(next_, left_);
    next_ = region;
    left_ = bytes;
    total_bytes_ += bytes;
  }

  Mutex mutex_;
  std::byte* next_ = nullptr;  // of the latest region: what is not used yet
  std::size_t left_ = 0, total_bytes_ = 0;
};

// Never destroyed: layers may be made while static objects are torn down.
Regions& g_regions = *new Regions;
[[maybe_unused]] const bool g_held_across_fork =
    at_fork([] { g_regions.mutex().lock(); }, [] { g_regions.mutex().unlock(); }, [] { g_regions.mutex().unlock(); });

}  // namespace

WeightMemory::WeightMemory(std::size_t bytes) {
  if (bytes < kSmallestBytes) {
    small_ = AlignedBuffer::zeros(bytes);
  } else {
    pages_bytes_ = whole_pages(bytes);
    pages_ = g_regions.take(pages_bytes_);
  }
}

WeightMemory::~WeightMemory() {
  if (pages_ != nullptr) munmap(pages_, pages_bytes_);
}

#else

WeightMemory::WeightMemory(std::size_t bytes) : small_(AlignedBuffer::zeros(bytes)) {}
WeightMemory::~WeightMemory() = default;

#endif

}  // namespace octavo
