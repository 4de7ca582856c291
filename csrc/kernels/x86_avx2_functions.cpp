// AVX2 and FMA: the functions of kernels/functions.h.
#include "kernels/detail/function_cells.h"
#include "kernels/detail/paired_vectors.h"
#include "kernels/detail/x86_vectors_avx2.h"
#include "kernels/functions.h"

namespace octavo {

extern const FunctionKernel functions_avx2;
constexpr FunctionKernel functions_avx2 = function_kernel<Paired<Avx2Vectors>, Avx2Vectors>();

}  // namespace octavo
