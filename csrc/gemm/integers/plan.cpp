#include "gemm/integers/plan.h"

#include <algorithm>
#include <bit>

namespace octavo {
namespace {

// Whole elements are written once, by their tiles, which takes as long as about this part of a pass. Weakly founded.
constexpr double kWritePass = 0.3;

}  // namespace

ValueRange range_of_type(const IntegerView& view) {
  return view.is_signed ? ValueRange{8 * view.elem_bytes - 1, true} : ValueRange{8 * view.elem_bytes, false};
}

ValueRange range_of_values(const IntegerKernel& kernel, const IntegerView& view, std::int64_t rows, std::int64_t cols) {
  const IntegerSpread spread = kernel.spread(view, rows, cols);
  return {static_cast<int>(std::bit_width(spread.bits)), spread.negative};
}

ValueRange merged(ValueRange a, ValueRange b) { return {std::max(a.bits, b.bits), a.negative || b.negative}; }

std::uint64_t Digits::offset() const {
  std::uint64_t sum = 0;
  for (int i = 0; i < count; ++i) sum += static_cast<std::uint64_t>(flip(i)) << (8 * i);
  return sum;
}

Digits digits_of(ValueRange range) {
  const int with_sign = range.bits / 8 + 1;
  const int without = std::max(1, (range.bits + 7) / 8);
  if (!range.negative && without < with_sign) return {without, true};
  return {with_sign, false};
}

int pairs_of_digits(int lhs, int rhs, int bytes) {
  int pairs = 0;
  for (int i = 0; i < std::min(lhs, bytes); ++i) pairs += std::min(rhs, bytes - i);
  return pairs;
}

Choice choose_form(const Kernel& kernel, const ChoiceInput& in) {
  // |sum| <= K 2^bits 2^bits, which has to stay below 2^31.
  const int sum_bits = in.lhs.bits + in.rhs.bits + static_cast<int>(std::bit_width(static_cast<std::uint64_t>(in.k)));
  const bool fits = sum_bits <= 31;
  const int bytes = fits ? std::min(in.result_bytes, 4) : in.result_bytes;
  const IntegerCosts& costs = kernel.integer_costs;
  const double pass = costs.pass_k / static_cast<double>(std::min(in.k, in.piece_k)), writing = kWritePass * pass;
  Choice best{Form::k64, in.result_bytes};
  double least = (is_narrow(in.lhs, in.rhs) ? costs.of64_narrow : costs.of64) + writing;
  const auto consider = [&](bool right, Form form, double cost) {
    if (right && cost < least) {
      least = cost;
      best = {form, bytes};
    }
  };
  const bool both16 = std::max(in.lhs.bits, in.rhs.bits) <= 15;
  consider(bytes <= 4, Form::k32, costs.of32 + writing);
  consider(bytes <= 2 || (bytes <= 4 && both16), Form::k16, costs.of16 + writing);
  consider(true, Form::kDigits, (bytes <= 4 ? in.pairs4 : in.pairs_result) * (1 + pass));
  return best;
}

}  // namespace octavo
