// The AVX-VNNI kernel on AVX512-VNNI's form of its instruction.
#include "../../csrc/kernels/x86_avxvnni.cpp"
