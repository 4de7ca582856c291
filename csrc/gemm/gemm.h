// START HERE. One plan for every product of rows with packed weights: chooses blocks and hands them to threads.
//
// How data flows: rows -> the kernel quantizes (or packs) them into this thread's workspace -> the kernel
// multiplies them with the panels and finishes the sums in cache -> the caller's array. The result does not depend on
// the plan: the sums are exact integers, and every output element is finished by the same float operations in the same
// order.
//
// A weight format joins by deriving a class from Product: see gemm_int8.cpp and gemm_int4.cpp. Each asks the registry
// for a kernel, describes its product, and calls multiply.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/aligned_buffer.h"
#include "base/rounding.h"
#include "gemm/verbose.h"

namespace octavo {

// Packed rows, and the numbers of each row that finishing its sums needs.
struct LoadedRows {
  void* packed;
  float* scale;
  std::int32_t* zero_point;
  std::int32_t* sum;

  // The rows from `row` on, whose packed form starts `bytes` further on.
  LoadedRows from(std::int64_t row, std::int64_t bytes) const {
    return {static_cast<std::byte*>(packed) + bytes, scale + row, zero_point + row, sum + row};
  }
};

// Memory for them, which a thread keeps for its next call. What it keeps is bounded: the plan lets a block of many rows
// fill half of the L2 cache, or 8 MiB with kernels that take K in pieces, and few rows are at most four tiles a thread.
class RowBuffers {
 public:
  LoadedRows reserve(std::int64_t packed_bytes, std::int64_t rows) {
    const std::size_t words = memory_bytes(rows * std::int64_t{sizeof(std::int32_t)});
    packed_.reserve(memory_bytes(packed_bytes));
    scale_.reserve(words);
    zero_point_.reserve(words);
    sum_.reserve(words);
    return {packed_.as<void>(), scale_.as<float>(), zero_point_.as<std::int32_t>(), sum_.as<std::int32_t>()};
  }

 private:
  AlignedBuffer packed_, scale_, zero_point_, sum_;
};

// Some rows by some panels, over all of k.
struct Block {
  std::int64_t row0, rows;
  std::int64_t panel0, panels;
};

// A product as the plan sees it. Several threads call its functions at once.
class Product {
 public:
  // What the plan weighs.
  struct Size {
    std::int64_t m, n, k;
    std::int64_t panels, panel_bytes;  // of the weights
    std::int64_t mr;                   // rows of the kernel's register tile
    double multiply_adds_per_us;       // by one thread
    bool long_rows = false;            // a block of them need not fit the L2 cache
    std::int64_t apart_rows = 0;       // Kernel::apart_rows
  };

  virtual Size size() const = 0;
  virtual std::int64_t lhs_bytes(std::int64_t rows) const = 0;      // that load_rows fills
  virtual std::int64_t scratch_bytes(std::int64_t rows) const = 0;  // that multiply_block may use
  // Quantizes or packs rows [row0, row0 + rows) into `to`.
  virtual void load_rows(std::int64_t row0, std::int64_t rows, const LoadedRows& to) const = 0;
  // Multiplies the block's rows, which load_rows has left in `lhs`, and writes their results.
  virtual void multiply_block(const Block& block, const LoadedRows& lhs, void* scratch) const = 0;

 protected:
  ~Product() = default;
};

// Runs the product. The kernel's name is for the report.
void multiply(const Product& product, const char* kernel, CallReport& report);

// Whether m rows of n results, `stride` floats apart, may be written past the caches: they must be far larger than the
// caches, and no two rows may share a cache line. Memory from octavo's pool starts on a cache line; a large array that
// NumPy allocates starts 16 bytes after one.
bool may_stream(const float* dst, std::int64_t m, std::int64_t n, std::int64_t stride);

// Whether the weights of a product most likely come from memory, since the process holds far more than fit the caches.
bool weights_are_cold();

// The size of m rows times packed weights, by a kernel of their format.
template <class Rhs, class Kernel>
Product::Size size_of(std::int64_t m, const Rhs& rhs, const Kernel& kernel) {
  return {.m = m,
          .n = rhs.n(),
          .k = rhs.k(),
          .panels = rhs.panels(),
          .panel_bytes = rhs.panel_bytes(),
          .mr = kernel.mr,
          .multiply_adds_per_us = kernel.multiply_adds_per_us};
}

// Runs a block on a kernel: gemv where the rows are few enough to stream the panels, else gemm.
template <class Kernel, class KernelBlock>
void run_kernel(const Kernel& kernel, const KernelBlock& block) {
  (block.rows <= kernel.gemv_max_rows ? kernel.gemv : kernel.gemm)(block);
}

// The columns [panel0, panel0 + panels) of a block, of n in panels of nr.
struct ColumnRange {
  ColumnRange(const Block& block, std::int64_t nr, std::int64_t n)
      : first(block.panel0 * nr), count((block.panel0 + block.panels) * nr < n ? block.panels * nr : n - first) {}
  std::int64_t first, count;
};

}  // namespace octavo
