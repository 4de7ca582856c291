// The groups of bindings that module.cpp calls, one file each.
#pragma once

#include <pybind11/pybind11.h>

namespace octavo {

void bind_fake_quant(pybind11::module_& m);  // fake quantization, forward and backward

}  // namespace octavo
