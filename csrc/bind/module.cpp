// The Python module octavo._core: a table of contents, a file for each entry. There arguments are checked for memory
// safety alone. The Python layer above checks the rest and explains what is wrong.
#include <pybind11/pybind11.h>

#include "bind/bindings.h"

PYBIND11_MODULE(_core, m, pybind11::mod_gil_not_used()) {
  using namespace octavo;
  m.doc() = "Kernels, packing and threads of octavo. Private: use octavo and octavo.ops.";
  bind_attention(m);
  bind_fake_quant(m);
  bind_functional(m);
  bind_grouped(m);
  bind_int4(m);
  bind_int8(m);
  bind_integers(m);
  bind_kernels(m);
  bind_recurrent(m);
  bind_results(m);
  bind_threads(m);
  bind_verbose(m);
  bind_words(m);
}
