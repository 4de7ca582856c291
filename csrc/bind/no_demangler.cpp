// Stands in for the demangler of a libstdc++ that is linked in, 47 KB of code. What asks for it, pybind11 for the names of
// types it was never told of and the handler of uncaught exceptions, then shows the mangled name.
#include <cstddef>

extern "C" char* __cxa_demangle(const char*, char*, std::size_t*, int* status) {
  if (status != nullptr) *status = -2;  // "not a valid name"
  return nullptr;
}
