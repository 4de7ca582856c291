// The gates of recurrent cells for one instruction set: a row of a step, as gemm/recurrent.h defines it.
#pragma once

#include <cstdint>

#include "kernels/detail/function_rows.h"
#include "kernels/detail/panel_product.h"
#include "kernels/detail/rotation.h"

namespace octavo {
namespace {

template <class V>
void lstm_row(std::int64_t hidden, const float* a, const float* b, float* c, float* h) {
  for_each_block<V>(hidden, [&](auto access, std::int64_t j) {
    for (int v = 0; v < V::kVecs; ++v) {
      const auto gate = [&](std::int64_t k) {
        return access.load(a + k * hidden + j, v, 0.0f) + access.load(b + k * hidden + j, v, 0.0f);
      };
      const auto kept = Sigmoid::of<V>(gate(1)) * access.load(c + j, v, 0.0f);
      const auto cell = kept + Sigmoid::of<V>(gate(0)) * Tanh::of<V>(gate(2));
      access.store(c + j, v, cell);
      access.store(h + j, v, Sigmoid::of<V>(gate(3)) * Tanh::of<V>(cell));
    }
  });
}

template <class V>
void gru_row(std::int64_t hidden, const float* a, const float* b, const float* before, float* h) {
  for_each_block<V>(hidden, [&](auto access, std::int64_t j) {
    for (int v = 0; v < V::kVecs; ++v) {
      const auto load = [&](const float* from, std::int64_t k) { return access.load(from + k * hidden + j, v, 0.0f); };
      const auto r = Sigmoid::of<V>(load(a, 0) + load(b, 0)), z = Sigmoid::of<V>(load(a, 1) + load(b, 1));
      const auto n = Tanh::of<V>(load(a, 2) + r * load(b, 2));
      access.store(h + j, v, (V::set1(1.0f) - z) * n + z * load(before, 0));
    }
  });
}

// V for the functions, and P, whose vectors are registers, for the products of attention and for rotations.
template <class V, class P = V>
constexpr FunctionKernel function_kernel() {
  return {
      // in the order of Elementwise and Rowwise
      {elementwise<V, Exp>, elementwise<V, Log>, elementwise<V, Erf>, elementwise<V, Tanh>, elementwise<V, Sigmoid>,
       elementwise<V, Sin>, elementwise<V, Cos>, elementwise<V, Silu>, elementwise<V, Gelu>, elementwise<V, GeluTanh>},
      swiglu<V>,
      {rows<softmax_row<V>>, rows<log_softmax_row<V>>, rows<log_sum_row<V>>, rows<rms_norm_row<V>>,
       rows<layer_norm_row<V>>},
      lstm_row<V>,
      gru_row<V>,
      panel_product<P>,
      rotate<P>,
  };
}

}  // namespace
}  // namespace octavo
