// The right-hand side, packed once: [N / nr][K / kr][nr][kr] int8, drawn in kernels/kernel.h.
#pragma once

#include <cstdint>

#include "base/thread_pool.h"
#include "gemm/image.h"
#include "kernels/integer.h"

namespace octavo {

// int8 or uint8 elements in the caller's memory: element (n, k) at data[n * n_stride + k * k_stride].
struct RhsView {
  const std::uint8_t* data;
  std::int64_t n, k;
  std::int64_t n_stride, k_stride;
  bool is_unsigned;
};

// Calls pack_one(i) for every panel, on all threads where there are enough weights.
void pack_panels(std::int64_t panels, std::int64_t weights, IndexFunction pack_one);

// Bytes of a panel's columns, whose k lie side by side: column j at data + j * stride.
struct ByteColumns {
  const std::uint8_t* data;
  std::int64_t stride, cols, k;
};

// Packs them into one panel, XORed with flip, which it pads with zeros, and adds to the columns' sums.
void pack_columns(const IntegerKernel& kernel, const ByteColumns& src, std::uint8_t flip, PanelShape shape,
                  std::int8_t* panel, std::int32_t* sums);

class PackedRhs {
 public:
  // The next parts of an image: of one that holds weights (n, k), or of zeros, for `pack` to fill.
  PackedRhs(std::int64_t n, std::int64_t k, PanelShape shape, Image& image);
  void pack(const RhsView& view);
  static std::size_t image_bytes(std::int64_t n, std::int64_t k, PanelShape shape);

  std::int64_t n() const { return n_; }
  std::int64_t k() const { return k_; }
  std::int32_t nr() const { return nr_; }
  std::int32_t kr() const { return kr_; }
  std::int64_t panels() const { return panels_; }
  std::int64_t panel_bytes() const { return panel_bytes_; }
  std::int64_t padded_n() const { return panels() * nr_; }

  const std::int8_t* panel(std::int64_t i) const { return data_.as<const std::int8_t>() + i * panel_bytes(); }
  // Each column's sum of the int8 values over k, modulo 2^32; zero in the padding.
  const std::int32_t* column_sums() const { return sums_.as<const std::int32_t>(); }
  std::size_t size_bytes() const { return data_.size_bytes() + sums_.size_bytes(); }

  // The values as they were packed, row-major (n, k), less 128 where they were unsigned.
  void unpack(std::int8_t* dst) const;
  // Some rows over all k, (count, k), or some columns over all n, (count, n).
  void unpack_rows(const std::int64_t* rows, std::int64_t count, std::int8_t* dst) const;
  void unpack_columns(const std::int64_t* columns, std::int64_t count, std::int8_t* dst) const;

 private:
  void pack_block(const IntegerKernel& kernel, const RhsView& view, std::int64_t panel0, std::int64_t panel1,
                  std::int64_t k0);

  std::int64_t n_, k_;
  std::int32_t nr_, kr_;
  std::int64_t panels_, panel_bytes_;
  Part data_, sums_;
};

}  // namespace octavo
