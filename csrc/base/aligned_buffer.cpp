#include "base/aligned_buffer.h"

#include <cstdint>
#include <cstring>
#include <new>

#include "base/rounding.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define OCTAVO_WATCHED_HEAP 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define OCTAVO_WATCHED_HEAP 1
#endif

// AddressSanitizer watches the heap alone, so under it all buffers come from there.
#if defined(__linux__) && !defined(OCTAVO_WATCHED_HEAP)
#define OCTAVO_OWN_PAGES 1
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace octavo {
namespace {

#if defined(OCTAVO_OWN_PAGES)

// Bytes of the mapping for a buffer: whole pages, and whole huge pages where that wastes a twentieth at most.
std::size_t mapped_bytes(std::size_t bytes) {
  static const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const std::size_t huge = round_up(bytes, AlignedBuffer::kHugePage);
  return huge - bytes <= bytes / 20 ? huge : round_up(bytes, page);
}

// Zeros. A mapping that holds huge pages starts at one.
std::byte* map_pages(std::size_t bytes) {
  const std::size_t size = mapped_bytes(bytes),
                    slack = bytes >= AlignedBuffer::kHugePage ? AlignedBuffer::kHugePage : 0;
  void* const mapped = mmap(nullptr, size + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  auto* const first = static_cast<std::byte*>(mapped);
  if (slack == 0) return first;
  const std::size_t before =
      round_up(reinterpret_cast<std::uintptr_t>(first), slack) - reinterpret_cast<std::uintptr_t>(first);
  if (before != 0) munmap(first, before);
  if (before != slack) munmap(first + before + size, slack - before);
  // A hint: packed weights are read front to back on every call, and small pages cost a TLB miss each. What does not
  // fill a huge page stays on small ones.
  madvise(first + before, size / slack * slack, MADV_HUGEPAGE);
  return first + before;
}

#endif

}  // namespace

AlignedBuffer::AlignedBuffer(std::size_t bytes, bool zeroed) : bytes_(bytes) {
  if (bytes == 0) return;
#if defined(OCTAVO_OWN_PAGES)
  if (bytes >= kOwnPagesBytes) {
    data_ = map_pages(bytes);
    return;
  }
#endif
  data_ = static_cast<std::byte*>(::operator new (bytes, std::align_val_t{kAlignment}));
  if (zeroed) std::memset(data_, 0, bytes);
}

AlignedBuffer::~AlignedBuffer() {
  if (data_ == nullptr) return;
#if defined(OCTAVO_OWN_PAGES)
  if (bytes_ >= kOwnPagesBytes) {
    munmap(data_, mapped_bytes(bytes_));
    return;
  }
#endif
  ::operator delete (data_, std::align_val_t{kAlignment});
}

}  // namespace octavo
