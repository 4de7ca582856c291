// The memory of a packed layer: its arrays one after the other, each from a multiple of 64 bytes on, zeros in between.
//
//   | panels | column sums | scales | bias |           what stands there, and in which order, the layer says
//
// Files and pickles hold it as it is, so a layer can lie in memory that it does not own: the pages of a file, or memory
// that processes share. What is in an image depends on its family alone.
#pragma once

#include <atomic>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/aligned_buffer.h"
#include "base/rounding.h"
#include "base/weight_memory.h"
#include "gemm/registry.h"

namespace octavo {

// Architectures whose kernels take the same panels. Every build packs and unpacks those of all of them.
struct Family {
  const char* name;
  PanelShape shape;
};
inline constexpr Family kFamilies[] = {{"x86", {16, 4}}, {"arm", {16, 8}}};

// The one whose panels the kernels of this build take.
inline const Family& own_family() {
  const PanelShape own = panel_shape();
  for (const Family& family : kFamilies) {
    if (family.shape == own) return family;
  }
  assert(false);  // test_registry
  return kFamilies[0];
}

// An array of an image: uninteresting where it is empty.
class Part {
 public:
  Part() = default;
  Part(std::byte* data, std::size_t bytes) : data_(data), bytes_(bytes) {}
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  std::size_t size_bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

// How many bytes an image holds, and how many all images of the process do: what two of them share counts twice.
class ImageBytes {
 public:
  ImageBytes() = default;
  explicit ImageBytes(std::size_t count) : count_(count) { total_ += count; }
  ImageBytes(ImageBytes&& other) noexcept : count_(std::exchange(other.count_, 0)) {}
  ImageBytes& operator=(ImageBytes&& other) noexcept {
    std::swap(count_, other.count_);
    return *this;
  }
  ~ImageBytes() { total_ -= count_; }

  std::size_t count() const { return count_; }
  static std::size_t total() { return total_.load(std::memory_order_relaxed); }

 private:
  static inline std::atomic<std::size_t> total_ = 0;
  std::size_t count_ = 0;
};

class Image {
 public:
  // What a part takes.
  static constexpr std::size_t padded(std::size_t bytes) { return round_up(bytes, AlignedBuffer::kAlignment); }

  static Image zeros(std::size_t bytes) {
    Image image;
    image.own_ = WeightMemory(bytes);
    image.data_ = image.own_.data();
    image.bytes_ = ImageBytes(bytes);
    return image;
  }
  // Memory of others, aligned to 64 bytes, which outlives the image. Layers never write to it.
  static Image over(std::byte* data, std::size_t bytes) {
    Image image;
    image.data_ = data;
    image.bytes_ = ImageBytes(bytes);
    return image;
  }

  // The next array of this many bytes.
  Part take(std::size_t bytes) {
    Part part(data_ + taken_, bytes);
    taken_ += padded(bytes);
    assert(taken_ <= size_bytes());
    return part;
  }

  const std::byte* data() const { return data_; }
  std::byte* writable() { return own_.data(); }  // null where the memory is of others
  bool is_borrowed() const { return data_ != own_.data(); }
  std::size_t size_bytes() const { return bytes_.count(); }

 private:
  Image() = default;

  WeightMemory own_;
  std::byte* data_ = nullptr;
  ImageBytes bytes_;
  std::size_t taken_ = 0;
};

}  // namespace octavo
