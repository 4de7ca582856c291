// The AMX kernel on the software model of its instructions.
#define OCTAVO_AMX_MODEL
#include "../../csrc/kernels/x86_amxint8.cpp"
