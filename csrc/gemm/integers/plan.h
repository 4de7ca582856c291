// What decides how a product of integers is computed: the values its operands hold, and what each way costs.
#pragma once

#include <cstdint>

#include "kernels/integer.h"
#include "kernels/kernel.h"

namespace octavo {

// -2^bits <= x < 2^bits, and x >= 0 unless `negative`. bits is 0 to 64.
struct ValueRange {
  int bits = 0;
  bool negative = false;
};
ValueRange range_of_type(const IntegerView& view);
ValueRange range_of_values(const IntegerKernel& kernel, const IntegerView& view, std::int64_t rows, std::int64_t cols);
ValueRange merged(ValueRange a, ValueRange b);

// An integer x as bytes u[i] of two's complement, modulo 2^(8 count). The int8 kernels multiply signed bytes s[i]: the
// top one is u's own bits read as signed (where that is x), and the others are u - 128, that is u ^ 0x80. So
//
//       x = sum_i 256^i s[i] + offset,        offset = 128 sum of 256^i over the flipped i
//
// and a product of sums over k needs, beside the products of the s, what the offsets add:
//
//       sum a b = sum s_a s_b + offset_a sum b + offset_b sum a - K offset_a offset_b
//
// (Balanced digits, -128..127 each, would need no offsets; two of them do not reach 32,640..32,767.)
struct Digits {
  int count = 1;
  bool top_flipped = false;  // of values that are not negative, where that saves a digit

  std::uint8_t flip(int i) const { return i + 1 < count || top_flipped ? 0x80 : 0; }
  std::uint64_t offset() const;
  Digits lowest(int most) const { return count <= most ? *this : Digits{most, true}; }
};
Digits digits_of(ValueRange range);

// Pairs of digits (i, j) whose product reaches into the lowest `bytes` bytes: i + j < bytes.
int pairs_of_digits(int lhs, int rhs, int bytes);

enum class Form : std::uint8_t { kDigits, k16, k32, k64 };

struct FormShape {
  std::int32_t elem_bytes;  // of both operands
  std::int32_t cols;        // of a panel
  std::int32_t line_k;      // k of a line
};
constexpr FormShape form_shape(Form form) {
  switch (form) {
    case Form::kDigits:
      return {1, 16, 1};
    case Form::k16:
      return {2, 16, 2};
    case Form::k32:
      return {4, 16, 1};
    default:
      return {8, 8, 1};
  }
}

// Ways that are right for operands of these ranges, K products a sum and results of this many bytes.
struct Choice {
  Form form;
  int bytes;  // of a sum that matter: 4 where int32 holds all of them, whatever the result is
};

struct ChoiceInput {
  ValueRange lhs, rhs;  // of all values
  std::int64_t k;
  std::int64_t piece_k;  // of a piece at most
  int result_bytes;
  double pairs4 = 0;        // of digits, on average over blocks of rows, where 4 bytes of a sum matter,
  double pairs_result = 0;  // and where result_bytes do
};
// Whether both fit in int32.
constexpr bool is_narrow(ValueRange lhs, ValueRange rhs) { return lhs.bits <= 31 && rhs.bits <= 31; }

Choice choose_form(const Kernel& kernel, const ChoiceInput& input);

}  // namespace octavo
