// The parts of the module, one file each, which module.cpp puts together.
#pragma once

#include <pybind11/pybind11.h>

namespace octavo {

void bind_attention(pybind11::module_& m);   // attention, its cache and rope
void bind_fake_quant(pybind11::module_& m);  // fake quantization and its gradients
void bind_functional(pybind11::module_& m);  // functions of elements and of rows
void bind_grouped(pybind11::module_& m);     // PackedLinearGrouped
void bind_int4(pybind11::module_& m);        // PackedLinearInt4
void bind_int8(pybind11::module_& m);        // PackedLinear, matmul_integer
void bind_integers(pybind11::module_& m);    // products of integers of any width
void bind_kernels(pybind11::module_& m);     // kernels, the CPU, the build
void bind_recurrent(pybind11::module_& m);   // lstm, gru
void bind_results(pybind11::module_& m);     // empty_result and the pool of large results
void bind_threads(pybind11::module_& m);     // numbers of threads
void bind_verbose(pybind11::module_& m);     // verbosity
void bind_words(pybind11::module_& m);       // words of other tools' checkpoints

}  // namespace octavo
