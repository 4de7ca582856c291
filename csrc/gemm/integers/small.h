// Products that are too small to be planned: packed and multiplied in the L1 cache, in well below a microsecond.
#pragma once

#include "gemm/integers/piece_product.h"

namespace octavo {

// Multiply-adds of such a product at most.
inline constexpr double kSmallWork = 32768;

// Neither rows, columns nor k are 0.
void multiply_small(const IntegerKernel& kernel, const IntegerMatrix& lhs, const IntegerMatrix& rhs,
                    const IntegerResult& dst);

}  // namespace octavo
