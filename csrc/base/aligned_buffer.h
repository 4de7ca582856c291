// Owning storage for packed operands: 64-byte aligned, zero-filled on request, movable, never copied.
#pragma once

#include <cstddef>
#include <cstring>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace octavo {

class AlignedBuffer {
 public:
  static constexpr std::size_t kAlignment = 64;
  static constexpr std::size_t kHugePage = std::size_t{2} << 20;

  AlignedBuffer() = default;
  explicit AlignedBuffer(std::size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    data_ = static_cast<std::byte*>(::operator new (bytes, std::align_val_t{alignment()}));
#if defined(__linux__)
    // A hint: packed weights are read front to back on every call, and 4 KiB pages cost a TLB miss each.
    if (alignment() == kHugePage) madvise(data_, bytes, MADV_HUGEPAGE);
#endif
  }
  AlignedBuffer(AlignedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~AlignedBuffer() {
    if (data_ != nullptr) ::operator delete (data_, std::align_val_t{alignment()});
  }

  static AlignedBuffer zeros(std::size_t bytes) {
    AlignedBuffer buffer(bytes);
    if (bytes != 0) std::memset(buffer.data_, 0, bytes);
    return buffer;
  }

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
  std::size_t alignment() const { return bytes_ >= kHugePage ? kHugePage : kAlignment; }

  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace octavo
