// Fake quantization of float32 arrays, forward and backward. Besides matrix products it is what quantization-aware
// training spends its time on. The NumPy definitions in python/octavo give the same bits.
//
//   v = x * r                                  r = fl(1 / scale)
//   q = rint(v), kept within [lo, hi]          lo = qmin - zero_point, hi = qmax - zero_point
//   y = q * scale                              the same bits as dequantize(quantize(x))
//
// Gradients, with inside = (lo <= rint(v) <= hi):
//
//   dL/dx          = inside ? g : 0                                straight through (Bengio et al. 2013)
//   dL/dscale      = sum g * (inside ? q - v : q)                  learned step size (Esser et al. 2020)
//   dL/dzero_point = sum inside ? 0 : -scale * g                   (Jain et al. 2020; Bhalgat et al. 2020)
//
// Arrays are contiguous and seen as (outer, channels, inner), C order, with one scale and zero point a channel; one
// channel means per tensor. This is plain C++ that compilers vectorise for the baseline instruction set: memory bounds
// each loop, so wider vectors were not worth objects of their own. Sums are taken in float64, in blocks that depend on
// the shape alone, so every number of threads gives the same bits.
#pragma once

#include <cstdint>

namespace octavo {

struct ChannelShape {
  std::int64_t outer, channels, inner;
  std::int64_t size() const { return outer * channels * inner; }
};

struct FakeQuantParams {
  const float* scale;              // (channels,), finite, at least 2^-126
  const std::int32_t* zero_point;  // (channels,), within qmin..qmax
  std::int32_t qmin, qmax;         // |qmin - zero_point| and |qmax - zero_point| below 2^21
};

// y may be x. False where x holds NaN; y then holds anything.
bool fake_quantize(const ChannelShape& shape, const FakeQuantParams& params, const float* x, float* y);

// dx may be g.
void fake_quantize_backward(const ChannelShape& shape, const FakeQuantParams& params, const float* x, const float* g,
                            float* dx);

// d_scale and d_zero_point: (channels,), written, not added to.
void fake_quantize_learnable_backward(const ChannelShape& shape, const FakeQuantParams& params, const float* x,
                                      const float* g, float* dx, double* d_scale, double* d_zero_point);

}  // namespace octavo
