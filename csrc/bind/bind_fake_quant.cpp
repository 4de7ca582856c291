// Fake quantization. Arguments are checked for memory safety alone; the Python layer above checks the rest.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "bind/bindings.h"
#include "bind/gil.h"
#include "bind/layer_call.h"
#include "quantize/fake_quant.h"

namespace octavo {
namespace {

using Floats = CArray<float>;

// The arguments that all three functions share. `axis` is where the channels are; negative: one channel.
struct Arguments {
  ChannelShape shape;
  FakeQuantParams params;

  Arguments(const Floats& x, const Floats& scale, const CArray<std::int32_t>& zero_point, std::int32_t qmin,
            std::int32_t qmax, int axis)
      : shape{1, 1, x.size()}, params{scale.data(), zero_point.data(), qmin, qmax} {
    require(axis < x.ndim(), "axis must be an axis of x");
    if (axis >= 0) {
      shape = {1, x.shape(axis), 1};
      for (int i = 0; i < axis; ++i) shape.outer *= x.shape(i);
      for (py::ssize_t i = axis + 1; i < x.ndim(); ++i) shape.inner *= x.shape(i);
    }
    require(scale.size() == shape.channels && zero_point.size() == shape.channels,
            "scale and zero_point must have one element a channel");
  }
};

Floats empty_like(const Floats& x) { return Floats(std::vector<py::ssize_t>(x.shape(), x.shape() + x.ndim())); }

void require_same_shape(const Floats& x, const Floats& g) {
  require(x.ndim() == g.ndim() && std::equal(x.shape(), x.shape() + x.ndim(), g.shape()), "g must have the shape of x");
}

std::optional<Floats> fake_quantize_of(const Floats& x, const Floats& scale, const CArray<std::int32_t>& zero_point,
                                       std::int32_t qmin, std::int32_t qmax, int axis) {
  const Arguments a(x, scale, zero_point, qmin, qmax, axis);
  Floats y = empty_like(x);
  const float* in = x.data();
  float* out = y.mutable_data();
  bool ok = true;
  {
    const GilReleased released;
    ok = fake_quantize(a.shape, a.params, in, out);
  }
  return ok ? std::optional<Floats>(y) : std::nullopt;
}

Floats backward_of(const Floats& x, const Floats& g, const Floats& scale, const CArray<std::int32_t>& zero_point,
                   std::int32_t qmin, std::int32_t qmax, int axis) {
  const Arguments a(x, scale, zero_point, qmin, qmax, axis);
  require_same_shape(x, g);
  Floats dx = empty_like(x);
  const float *in = x.data(), *gradient = g.data();
  float* out = dx.mutable_data();
  const GilReleased released;
  fake_quantize_backward(a.shape, a.params, in, gradient, out);
  return dx;
}

py::tuple learnable_backward_of(const Floats& x, const Floats& g, const Floats& scale,
                                const CArray<std::int32_t>& zero_point, std::int32_t qmin, std::int32_t qmax,
                                int axis) {
  const Arguments a(x, scale, zero_point, qmin, qmax, axis);
  require_same_shape(x, g);
  Floats dx = empty_like(x);
  CArray<double> d_scale(a.shape.channels), d_zero_point(a.shape.channels);
  const float *in = x.data(), *gradient = g.data();
  float* out = dx.mutable_data();
  double *scale_out = d_scale.mutable_data(), *zero_point_out = d_zero_point.mutable_data();
  {
    const GilReleased released;
    fake_quantize_learnable_backward(a.shape, a.params, in, gradient, out, scale_out, zero_point_out);
  }
  return py::make_tuple(dx, d_scale, d_zero_point);
}

}  // namespace

void bind_fake_quant(py::module_& m) {
  const auto x = py::arg("x").noconvert(), g = py::arg("g").noconvert();
  const auto scale = py::arg("scale").noconvert(), zero_point = py::arg("zero_point").noconvert();
  const auto qmin = py::arg("qmin"), qmax = py::arg("qmax"), axis = py::arg("axis");
  m.def("fake_quantize", &fake_quantize_of, x, scale, zero_point, qmin, qmax, axis);
  m.def("fake_quantize_backward", &backward_of, x, g, scale, zero_point, qmin, qmax, axis);
  m.def("fake_quantize_learnable_backward", &learnable_backward_of, x, g, scale, zero_point, qmin, qmax, axis);
}

}  // namespace octavo
