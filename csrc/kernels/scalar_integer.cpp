// Products of whole integers in standard C++, for any architecture: what runs beside the portable kernel and the
// Arm kernels. A tile is 2 rows by a line; compilers vectorise along the line.
#include <cstdint>
#include <cstring>

#include "kernels/detail/integer_passes.h"
#include "kernels/integer.h"

namespace octavo {
namespace {

// Sums wrap, so they are computed unsigned. (Those of pairs of 16 bits and of 32 bits have one type.)
template <class Sum>
struct UnsignedOf {
  using Type = std::uint32_t;
};
template <>
struct UnsignedOf<std::int64_t> {
  using Type = std::uint64_t;
};
template <class Sum>
using Unsigned = typename UnsignedOf<Sum>::Type;

struct Pairs {
  using Sum = std::int32_t;
  static std::uint32_t multiply(std::uint32_t a, std::uint32_t b) {
    const auto low = [](std::uint32_t x) { return static_cast<std::int32_t>(static_cast<std::int16_t>(x)); };
    return static_cast<std::uint32_t>(low(a) * low(b)) + static_cast<std::uint32_t>(low(a >> 16) * low(b >> 16));
  }
};

template <class SumType>
struct Whole {
  using Sum = SumType;
  static Unsigned<Sum> multiply(Unsigned<Sum> a, Unsigned<Sum> b) { return a * b; }
};

template <class Form, int kRows>
void multiply_rows(const WideBlock& block, std::int64_t m, const std::byte* panel, std::int64_t col0) {
  using Sum = typename Form::Sum;
  using Elem = Unsigned<Sum>;
  constexpr std::int64_t kCols = kWideLineBytes / sizeof(Sum);
  Elem sums[kRows][kCols] = {};
  const std::byte* lhs = static_cast<const std::byte*>(block.lhs) + m * block.lhs_stride;
  for (std::int64_t i = 0; i < block.lines; ++i, lhs += sizeof(Elem), panel += kWideLineBytes) {
    Elem line[kCols];
    std::memcpy(line, panel, sizeof line);
    for (int r = 0; r < kRows; ++r) {
      Elem a;
      std::memcpy(&a, lhs + r * block.lhs_stride, sizeof a);
      for (std::int64_t c = 0; c < kCols; ++c) sums[r][c] += Form::multiply(a, line[c]);
    }
  }
  const std::int64_t cols = block.cols - col0 < kCols ? block.cols - col0 : kCols;
  std::byte* const dst = static_cast<std::byte*>(block.dst) + (m * block.dst_stride + col0) * block.dst_bytes;
  put_rows(reinterpret_cast<const Sum*>(sums), kCols, kRows, cols, dst, block.dst_stride, block.dst_bytes, block.add);
}

template <class Form>
void multiply(const WideBlock& block) {
  constexpr std::int64_t kCols = kWideLineBytes / sizeof(typename Form::Sum);
  const std::byte* panel = static_cast<const std::byte*>(block.rhs);
  for (std::int64_t col0 = 0; col0 < block.cols; col0 += kCols, panel += block.panel_bytes) {
    std::int64_t m = 0;
    for (; m + 2 <= block.rows; m += 2) multiply_rows<Form, 2>(block, m, panel, col0);
    if (m < block.rows) multiply_rows<Form, 1>(block, m, panel, col0);
  }
}

}  // namespace

extern const IntegerKernel integer_scalar;
const IntegerKernel integer_scalar = {
    .mr16 = 2,
    .mr32 = 2,
    .mr64 = 2,
    .load = load_any,
    .spread = spread_any,
    .row_sum = row_sum,
    .pack_digits = pack_digits,
    .pack_pairs = pack_pairs,
    .combine = combine,
    .add_rows = add_rows,
    .dot_rows = dot_rows,
    .multiply16 = multiply<Pairs>,
    .multiply32 = multiply<Whole<std::int32_t>>,
    .multiply64 = multiply<Whole<std::int64_t>>,
    .multiply64_narrow = multiply<Whole<std::int64_t>>,
};

}  // namespace octavo
