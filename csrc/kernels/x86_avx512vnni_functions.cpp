// AVX512 F, BW, DQ and VL: the functions of kernels/functions.h.
#include "kernels/detail/function_cells.h"
#include "kernels/detail/x86_vectors_avx512.h"
#include "kernels/functions.h"

namespace octavo {

extern const FunctionKernel functions_avx512vnni;
constexpr FunctionKernel functions_avx512vnni = function_kernel<Avx512Vectors>();

}  // namespace octavo
