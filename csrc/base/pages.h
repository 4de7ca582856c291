// Memory pages from the system itself, where it lets us: OCTAVO_OWN_PAGES. AddressSanitizer watches the heap alone, so
// under it all memory comes from there.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/rounding.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define OCTAVO_WATCHED_HEAP 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define OCTAVO_WATCHED_HEAP 1
#endif

#if defined(__linux__) && !defined(OCTAVO_WATCHED_HEAP)
#define OCTAVO_OWN_PAGES 1
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace octavo {

inline constexpr std::size_t kHugePage = std::size_t{2} << 20;

#if defined(OCTAVO_OWN_PAGES)

inline std::size_t page_bytes() {
  static const auto bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}
inline std::size_t whole_pages(std::size_t bytes) { return round_up(bytes, page_bytes()); }

// Zeros on pages of their own; null where there are none. With `huge` they start where a huge page does.
inline std::byte* map_pages(std::size_t bytes, bool huge) {
  const std::size_t size = whole_pages(bytes), slack = huge ? kHugePage : 0;
  void* const mapped = mmap(nullptr, size + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  auto* const first = static_cast<std::byte*>(mapped);
  if (slack == 0) return first;
  const auto at = reinterpret_cast<std::uintptr_t>(first);
  const std::size_t before = round_up(at, kHugePage) - at;
  if (before != 0) munmap(first, before);
  if (before != slack) munmap(first + before + size, slack - before);
  return first + before;
}

// Gives back whole pages of a mapping. What is a part of a huge page stays with the process until memory is short, but
// for advice about that part, which splits the page.
inline void unmap_pages(std::byte* data, std::size_t bytes) {
#if defined(MADV_COLD)
  madvise(data, bytes, MADV_COLD);
#endif
  // A hole in a mapping makes two of it, of which a process may have so many.
  if (munmap(data, bytes) != 0) madvise(data, bytes, MADV_DONTNEED);
}

#endif

}  // namespace octavo
