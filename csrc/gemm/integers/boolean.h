// Products of truth values: dst[m, n] = or over k of (lhs[m, k] and rhs[k, n]).
//
// Rows of the rhs are packed to bits, and row m of the result is the OR of those rows k where lhs[m, k] is true: 64
// columns an instruction of 64 bits, and nothing at all for what is false. A row stops where all of its columns are
// true, which for dense operands is soon.
#pragma once

#include "gemm/integers/multiply.h"

namespace octavo {

// Elements of one byte, true where it is not 0; the result's are 0 or 1. lhs.cols == rhs.rows.
// `report` learns how it was done.
void multiply_booleans(const IntegerMatrix& lhs, const IntegerMatrix& rhs, const IntegerResult& dst,
                       CallReport& report);

}  // namespace octavo
