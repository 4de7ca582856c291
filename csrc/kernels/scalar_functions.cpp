// The portable kernel, an element at a time: the functions of kernels/functions.h.
#include "kernels/detail/function_cells.h"
#include "kernels/detail/scalar_vectors.h"
#include "kernels/functions.h"

namespace octavo {

extern const FunctionKernel functions_scalar;
constexpr FunctionKernel functions_scalar = function_kernel<ScalarVectors>();

}  // namespace octavo
