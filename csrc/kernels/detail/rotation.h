// The rotation of kernels/functions.h for one instruction set: V as for its other functions, and besides
// butterfly<h>(v), which gives v[i] + v[i + h] and v[i] - v[i + h] in their places, for h below its lanes.
#pragma once

#include <cstdint>

#include "kernels/functions.h"

namespace octavo {
namespace {

inline constexpr int kRotatedLanes = 16;

// The steps 1, 2, 4 and 8 of 16 elements.
template <class V, int kStep = 1>
[[gnu::always_inline]] inline void rotate_lanes(typename V::Float (&v)[V::kVecs]) {
  static_assert(V::kVecs * V::kLanes == kRotatedLanes);
  if constexpr (kStep < V::kLanes) {
    for (auto& lanes : v) lanes = V::template butterfly<kStep>(lanes);
  } else {
    constexpr int kApart = kStep / V::kLanes;
    for (int i = 0; i < V::kVecs; ++i) {
      if ((i & kApart) != 0) continue;
      const auto sum = v[i] + v[i + kApart];
      v[i + kApart] = v[i] - v[i + kApart];
      v[i] = sum;
    }
  }
  if constexpr (2 * kStep < kRotatedLanes) rotate_lanes<V, 2 * kStep>(v);
}

template <class V>
void rotate(const float* x, const float* factor, float* y, std::int64_t k, std::int64_t block) {
  for (std::int64_t first = 0; first < k; first += block) {
    const std::int64_t end = first + block;
    for (std::int64_t i = first; i < end; i += kRotatedLanes) {
      typename V::Float v[V::kVecs];
      for (int r = 0; r < V::kVecs; ++r) {
        const std::int64_t at = i + r * V::kLanes;
        v[r] = V::load(x + at);
        if (factor != nullptr) v[r] = v[r] * V::load(factor + at);
      }
      rotate_lanes<V>(v);
      for (int r = 0; r < V::kVecs; ++r) V::store(y + i + r * V::kLanes, v[r]);
    }
    for (std::int64_t h = kRotatedLanes; h < block; h *= 2) {
      for (std::int64_t pair = first; pair < end; pair += 2 * h) {
        for (std::int64_t i = pair; i < pair + h; i += V::kLanes) {
          const auto a = V::load(y + i), b = V::load(y + i + h);
          V::store(y + i, a + b);
          V::store(y + i + h, a - b);
        }
      }
    }
  }
}

}  // namespace
}  // namespace octavo
