// NEON: the functions of kernels/functions.h.
#include "kernels/detail/function_cells.h"
#include "kernels/detail/arm_vectors.h"
#include "kernels/functions.h"

namespace octavo {

extern const FunctionKernel functions_neon;
constexpr FunctionKernel functions_neon = function_kernel<NeonVectors>();

}  // namespace octavo
