// The portable kernel: standard C++ for any architecture and any panel shape.
//
// It runs where no other kernel does, and states most plainly what the others compute. Sums are uint32, so that they
// wrap mod 2^32 as the contract says without undefined behaviour. The lhs is row-major int8, each row padded with zeros
// to a multiple of kLhsPad.
#include <cstdint>
#include <cstring>

#include "kernels/detail/scalar_finish.h"
#include "kernels/detail/scalar_rows.h"
#include "kernels/kernel.h"

namespace octavo {
namespace {

constexpr std::int64_t kLhsPad = 16;  // a multiple of every kr
constexpr std::int64_t kMaxNr = 64;   // of every nr

std::int64_t lhs_stride(std::int64_t k) { return (k + kLhsPad - 1) / kLhsPad * kLhsPad; }
std::int64_t lhs_bytes(std::int64_t rows, std::int64_t k) { return rows * lhs_stride(k); }
std::int64_t scratch_elems(std::int64_t, std::int64_t) { return 0; }

void quantize_lhs(const QuantizeLhs& task) { quantize_rows(task, lhs_stride(task.k)); }

void pack_lhs(const PackLhs& task) {
  const std::int64_t stride = lhs_stride(task.k);
  for (std::int64_t m = 0; m < task.rows; ++m) {
    const std::uint8_t* x = task.src + m * task.src_stride;
    std::uint8_t* q = static_cast<std::uint8_t*>(task.dst) + m * stride;
    for (std::int64_t i = 0; i < task.k; ++i) q[i] = static_cast<std::uint8_t>(x[i] ^ task.flip);
    std::memset(q + task.k, 0, static_cast<std::size_t>(stride - task.k));
  }
}

// acc[j] = sum over k of a[k] * panel[k / kr][j][k % kr], for one row and one panel. kKr is kr at compile time, or 0.
template <int kKr>
void multiply_row(const std::int8_t* a, const std::int8_t* panel, const GemmBlock& block, std::uint32_t* acc) {
  const std::int64_t kr = kKr != 0 ? kKr : block.kr;
  for (std::int64_t j = 0; j < block.nr; ++j) acc[j] = 0;
  for (std::int64_t k = 0; k < block.k; k += kr, panel += block.nr * kr) {
    for (std::int64_t j = 0; j < block.nr; ++j) {
      std::int32_t sum = 0;
      for (std::int64_t i = 0; i < kr; ++i) sum += a[k + i] * panel[j * kr + i];
      acc[j] += static_cast<std::uint32_t>(sum);
    }
  }
}

void gemm(const GemmBlock& block) {
  const std::int64_t stride = lhs_stride(block.k);
  const std::int64_t panel_bytes = (block.k + block.kr - 1) / block.kr * block.kr * block.nr;
  const std::int8_t* panel = block.rhs;
  for (std::int64_t n0 = 0; n0 < block.cols; n0 += block.nr, panel += panel_bytes) {
    const std::int64_t cols = block.cols - n0 < block.nr ? block.cols - n0 : block.nr;
    for (std::int64_t m = 0; m < block.rows; ++m) {
      const std::int8_t* a = static_cast<const std::int8_t*>(block.lhs) + m * stride;
      std::uint32_t acc[kMaxNr];
      if (block.kr == 4) {
        multiply_row<4>(a, panel, block, acc);
      } else if (block.kr == 8) {
        multiply_row<8>(a, panel, block, acc);
      } else {
        multiply_row<0>(a, panel, block, acc);
      }
      store_row(block, acc, m, n0, cols);
    }
  }
}

}  // namespace

extern const Int4Kernel int4_scalar;
extern const GroupedKernel grouped_scalar;
extern const IntegerKernel integer_scalar;
extern const FunctionKernel functions_scalar;
extern const Kernel kernel_scalar;
const Kernel kernel_scalar = {
    .name = "scalar",
    .features = 0,
    .nr = 0,
    .kr = 0,
    .mr = 1,
    .panels = 1,
    .lhs_elem_bytes = 1,
    .lhs_bytes = lhs_bytes,
    .scratch_elems = scratch_elems,
    .quantize_lhs = quantize_lhs,
    .pack_lhs = pack_lhs,
    .gemm = gemm,
    .gemv = gemm,
    .gemv_max_rows = 1,
    .multiply_adds_per_us = 5e3,
    .int4 = &int4_scalar,
    .grouped = &grouped_scalar,
    .integer = &integer_scalar,
    .integer_costs = {1, 1.5, 3.2, 3.2, 10},
    .functions = &functions_scalar,
    .apart_rows = 1,
};

}  // namespace octavo
