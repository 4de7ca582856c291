// Fake quantization of float32 arrays and its gradients, in one pass over the array, on the pool's threads.
//
//   v = x * inverse[c],  q = clamp(rint(v), lo[c], hi[c]),  y = q * scale[c]          lo = qmin - z, hi = qmax - z
//
// python/octavo/fake_quant.py has the definition, its sources, and what the gradients are. y and dx have its bits. Sums
// are taken in double precision over fixed blocks, added up in ascending order: the same for any number of threads.
#pragma once

#include <cstdint>

namespace octavo {

// A contiguous array (outer, channels, inner). One set of parameters for all of it is channels = 1 and outer = 1.
struct FakeQuantShape {
  std::int64_t outer, channels, inner;
  std::int64_t size() const { return outer * channels * inner; }
};

// One value a channel. |lo| and |hi| are whole numbers of at most 2^21, and lo <= 0 <= hi.
struct FakeQuantParams {
  const float *scale, *inverse, *lo, *hi;
};

void fake_quantize(const float* x, FakeQuantShape shape, FakeQuantParams params, float* y);

// dx = grad where rint(v) lies within lo and hi, else 0.
void fake_quantize_backward(const float* grad, const float* x, FakeQuantShape shape, FakeQuantParams params, float* dx);

// The same; and for each channel the sums of grad * (inside ? q - v : q) and of (inside ? 0 : grad).
void learnable_backward(const float* grad, const float* x, FakeQuantShape shape, FakeQuantParams params, float* dx,
                        double* scale_sum, double* outside_sum);

}  // namespace octavo
