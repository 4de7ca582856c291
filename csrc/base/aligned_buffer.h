// Owning storage for what a call packs and writes: 64-byte aligned, zero-filled on request, movable, never copied.
//
// Where the system lets us, large buffers have memory pages of their own, so that a process holds what it asked for and
// no more: they go back to the system when they are freed, whatever the allocator keeps, and huge pages are used only
// where they are filled.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

namespace octavo {

// A number of bytes to ask for. std::bad_alloc where the machine has no addresses for so many (32 bits).
inline std::size_t memory_bytes(std::int64_t bytes) {
  const auto size = static_cast<std::size_t>(bytes);
  if (static_cast<std::int64_t>(size) != bytes) throw std::bad_alloc();
  return size;
}

class AlignedBuffer {
 public:
  static constexpr std::size_t kAlignment = 64;
  // From here on a buffer has pages of its own, or from 32 pages on where these are larger than 4 KB.
  static constexpr std::size_t kOwnPagesBytes = std::size_t{128} << 10;

  AlignedBuffer() = default;
  explicit AlignedBuffer(std::size_t bytes) : AlignedBuffer(bytes, false) {}
  AlignedBuffer(AlignedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~AlignedBuffer();

  static AlignedBuffer zeros(std::size_t bytes) { return AlignedBuffer(bytes, true); }

  // Makes room for `bytes`; what was inside is lost when the buffer has to grow.
  void reserve(std::size_t bytes) {
    if (bytes > bytes_) *this = AlignedBuffer(bytes);
  }

  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  std::size_t size_bytes() const { return bytes_; }

 private:
  AlignedBuffer(std::size_t bytes, bool zeroed);

  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace octavo
