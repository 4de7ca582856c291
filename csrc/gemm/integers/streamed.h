// A few vectors times a matrix of the result's type, which is read as it lies: nothing is packed.
#pragma once

#include "gemm/integers/packed_rhs.h"
#include "gemm/integers/piece_product.h"
#include "gemm/verbose.h"

namespace octavo {

// False where the product is another one, and nothing is done. Neither rows, columns nor k are 0.
bool multiply_streamed(const Kernel& kernel, const IntegerMatrix& lhs, const IntegerMatrix& rhs,
                       const IntegerResult& dst, CallReport& report);

}  // namespace octavo
