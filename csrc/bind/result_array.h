// Arrays for results. Included by the files of csrc/bind alone.
#pragma once

#include <pybind11/numpy.h>

namespace octavo {

// An uninitialised, C-contiguous, writable array. A large one lives in a block of the result pool (base/result_pool.h):
// its base is a capsule that gives the block back when the last view of it dies. It behaves as any other array, except
// that flags.owndata is False and that NumPy therefore refuses to resize it in place.
pybind11::object new_result(int nd, const Py_intptr_t* shape, pybind11::dtype dtype);

}  // namespace octavo
