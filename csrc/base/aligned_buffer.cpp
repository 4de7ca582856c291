#include "base/aligned_buffer.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>

#include "base/pages.h"
#include "base/rounding.h"

namespace octavo {
namespace {

#if defined(OCTAVO_OWN_PAGES)

// Where whole pages cost 3 % at most.
bool has_own_pages(std::size_t bytes) { return bytes >= std::max(AlignedBuffer::kOwnPagesBytes, 32 * page_bytes()); }

// Bytes of the mapping for a buffer: whole pages, and whole huge pages where that wastes a twentieth at most.
std::size_t mapped_bytes(std::size_t bytes) {
  const std::size_t huge = round_up(bytes, kHugePage);
  return huge - bytes <= bytes / 20 ? huge : whole_pages(bytes);
}

#endif

}  // namespace

AlignedBuffer::AlignedBuffer(std::size_t bytes, bool zeroed) : bytes_(bytes) {
  if (bytes == 0) return;
#if defined(OCTAVO_OWN_PAGES)
  if (has_own_pages(bytes)) {
    const std::size_t size = mapped_bytes(bytes);
    data_ = map_pages(size, size >= kHugePage);
    if (data_ == nullptr) throw std::bad_alloc();
    // A hint: what is read or written front to back on every call misses the TLB at each small page. What does not fill
    // a huge page stays on small ones.
    if (size >= kHugePage) madvise(data_, size / kHugePage * kHugePage, MADV_HUGEPAGE);
    return;
  }
#endif
  data_ = static_cast<std::byte*>(::operator new (bytes, std::align_val_t{kAlignment}));
  if (zeroed) std::memset(data_, 0, bytes);
}

AlignedBuffer::~AlignedBuffer() {
  if (data_ == nullptr) return;
#if defined(OCTAVO_OWN_PAGES)
  if (has_own_pages(bytes_)) {
    munmap(data_, mapped_bytes(bytes_));
    return;
  }
#endif
  ::operator delete (data_, std::align_val_t{kAlignment});
}

}  // namespace octavo
