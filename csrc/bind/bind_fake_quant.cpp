// Fake quantization and its gradients on contiguous float32 arrays, seen as (outer, channels, inner).
#include <cstdint>
#include <vector>

#include "bind/bindings.h"
#include "bind/layer_call.h"
#include "quantize/fake_quant.h"

namespace octavo {
namespace {

using Floats = CArray<float>;

// Parameters as float32 arrays of one value a channel, and the sizes of the array before and behind the channels' axis.
struct Arguments {
  FakeQuantShape shape;
  FakeQuantParams params;
};

Arguments checked(const Floats& x, const Floats& scale, const Floats& inverse, const Floats& lo, const Floats& hi,
                  std::int64_t outer, std::int64_t inner) {
  const std::int64_t channels = scale.size();
  require(inverse.size() == channels && lo.size() == channels && hi.size() == channels,
          "parameters must have one length");
  require(outer >= 0 && inner >= 0 && outer * channels * inner == x.size(),
          "x must have outer * channels * inner elements");
  for (std::int64_t c = 0; c < channels; ++c) {
    require(lo.data()[c] >= -0x1p21f && lo.data()[c] <= 0.0f && hi.data()[c] >= 0.0f && hi.data()[c] <= 0x1p21f,
            "lo must be within -2^21 to 0 and hi within 0 to 2^21");
  }
  return {{outer, channels, inner}, {scale.data(), inverse.data(), lo.data(), hi.data()}};
}

Floats like(const Floats& x) { return Floats(std::vector<py::ssize_t>(x.shape(), x.shape() + x.ndim())); }

Floats fake_quantized(const Floats& x, const Floats& scale, const Floats& inverse, const Floats& lo, const Floats& hi,
                      std::int64_t outer, std::int64_t inner) {
  const Arguments a = checked(x, scale, inverse, lo, hi, outer, inner);
  Floats y = like(x);
  float* out = y.mutable_data();
  without_gil(static_cast<double>(x.size()), [&] { fake_quantize(x.data(), a.shape, a.params, out); });
  return y;
}

Floats gradient(const Floats& grad, const Floats& x, const Floats& scale, const Floats& inverse, const Floats& lo,
                const Floats& hi, std::int64_t outer, std::int64_t inner) {
  const Arguments a = checked(x, scale, inverse, lo, hi, outer, inner);
  require(grad.size() == x.size(), "grad must have the size of x");
  Floats dx = like(x);
  float* out = dx.mutable_data();
  without_gil(static_cast<double>(x.size()),
              [&] { fake_quantize_backward(grad.data(), x.data(), a.shape, a.params, out); });
  return dx;
}

py::tuple learnable(const Floats& grad, const Floats& x, const Floats& scale, const Floats& inverse, const Floats& lo,
                    const Floats& hi, std::int64_t outer, std::int64_t inner) {
  const Arguments a = checked(x, scale, inverse, lo, hi, outer, inner);
  require(grad.size() == x.size(), "grad must have the size of x");
  Floats dx = like(x);
  py::array_t<double> scale_sum(scale.size()), outside_sum(scale.size());
  float* out = dx.mutable_data();
  double* first = scale_sum.mutable_data();
  double* second = outside_sum.mutable_data();
  without_gil(static_cast<double>(x.size()),
              [&] { learnable_backward(grad.data(), x.data(), a.shape, a.params, out, first, second); });
  return py::make_tuple(dx, scale_sum, outside_sum);
}

}  // namespace

void bind_fake_quant(py::module_& m) {
  m.def("fake_quantize", &fake_quantized, py::arg("x"), py::arg("scale"), py::arg("inverse"), py::arg("lo"),
        py::arg("hi"), py::kw_only(), py::arg("outer"), py::arg("inner"));
  m.def("fake_quantize_backward", &gradient, py::arg("grad"), py::arg("x"), py::arg("scale"), py::arg("inverse"),
        py::arg("lo"), py::arg("hi"), py::kw_only(), py::arg("outer"), py::arg("inner"));
  m.def("learnable_backward", &learnable, py::arg("grad"), py::arg("x"), py::arg("scale"), py::arg("inverse"),
        py::arg("lo"), py::arg("hi"), py::kw_only(), py::arg("outer"), py::arg("inner"));
}

}  // namespace octavo
