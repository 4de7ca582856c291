// The functions of kernels/functions.h for one instruction set: loops over elements and rows, 16 lanes at a time.
#pragma once

#include <cstdint>

#include "kernels/detail/float_functions.h"
#include "kernels/functions.h"

namespace octavo {
namespace {

template <class V>
inline constexpr std::int64_t kBlockElems = V::kLanes * V::kVecs;

// body(Access, i) for each block of 16 elements of 0 .. count - 1; the last may be shorter. Access loads and stores
// register v of the block: missing elements are loaded as `fill` and not stored.
template <class V>
struct Whole {
  typename V::Float load(const float* at, int v, float) const { return V::load(at + v * V::kLanes); }
  void store(float* at, int v, typename V::Float value) const { V::store(at + v * V::kLanes, value); }
};

template <class V>
struct Part {
  std::int64_t count;
  typename V::Float load(const float* at, int v, float fill) const {
    const std::int64_t before = v * V::kLanes;
    return before < count ? V::load_some(at + before, count - before, fill) : V::set1(fill);
  }
  void store(float* at, int v, typename V::Float value) const {
    const std::int64_t before = v * V::kLanes;
    if (before < count) V::store_some(at + before, value, count - before);
  }
};

template <class V, class Body>
inline void for_each_block(std::int64_t count, const Body& body) {
  std::int64_t i = 0;
  for (; i + kBlockElems<V> <= count; i += kBlockElems<V>) body(Whole<V>{}, i);
  if (i < count) body(Part<V>{count - i}, i);
}

template <class V, class F>
void elementwise(const float* x, float* y, std::int64_t count) {
  for_each_block<V>(count, [&](auto access, std::int64_t i) {
    for (int v = 0; v < V::kVecs; ++v) access.store(y + i, v, F::template of<V>(access.load(x + i, v, 0.0f)));
  });
}

template <class V>
void swiglu(const float* gate, const float* up, float* y, std::int64_t count) {
  for_each_block<V>(count, [&](auto access, std::int64_t i) {
    for (int v = 0; v < V::kVecs; ++v) {
      const auto silu = Silu::of<V>(access.load(gate + i, v, 0.0f));
      access.store(y + i, v, silu * access.load(up + i, v, 0.0f));
    }
  });
}

template <class V>
float row_max(const float* x, std::int64_t count) {
  typename V::Float most[V::kVecs];
  for (auto& m : most) m = V::set1(-kInfinity);
  for_each_block<V>(count, [&](auto access, std::int64_t i) {
    for (int v = 0; v < V::kVecs; ++v) most[v] = V::max(most[v], access.load(x + i, v, -kInfinity));
  });
  return V::largest(most);
}

// The sum of exp(x - most), which are stored where y is not null.
template <class V, bool kStore>
float exp_sum(const float* x, float* y, std::int64_t count, float most) {
  typename V::Float sums[V::kVecs];
  for (auto& s : sums) s = V::set1(0.0f);
  for_each_block<V>(count, [&](auto access, std::int64_t i) {
    for (int v = 0; v < V::kVecs; ++v) {
      const auto e = ExpOfNegative::of<V>(access.load(x + i, v, -kInfinity) - V::set1(most));
      sums[v] = sums[v] + e;
      if constexpr (kStore) access.store(y + i, v, e);
    }
  });
  return V::sum(sums);
}

template <class V>
void softmax_row(const RowsTask& task, const float* x, float* y) {
  const float sum = exp_sum<V, true>(x, y, task.cols, row_max<V>(x, task.cols));
  const auto inverse = V::set1(1.0f / sum);
  for_each_block<V>(task.cols, [&](auto access, std::int64_t i) {
    for (int v = 0; v < V::kVecs; ++v) access.store(y + i, v, access.load(y + i, v, 0.0f) * inverse);
  });
}

template <class V>
float log_of(float x) {
  float lanes[V::kLanes];
  V::store(lanes, Log::of<V>(V::set1(x)));
  return lanes[0];
}

template <class V>
void log_softmax_row(const RowsTask& task, const float* x, float* y) {
  const float most = row_max<V>(x, task.cols);
  const float log_sum = log_of<V>(exp_sum<V, false>(x, nullptr, task.cols, most));
  for_each_block<V>(task.cols, [&](auto access, std::int64_t i) {
    for (int v = 0; v < V::kVecs; ++v) {
      access.store(y + i, v, (access.load(x + i, v, 0.0f) - V::set1(most)) - V::set1(log_sum));
    }
  });
}

template <class V>
void log_sum_row(const RowsTask& task, const float* x, float* y) {
  const float most = row_max<V>(x, task.cols);
  const float log_sum = log_of<V>(exp_sum<V, false>(x, nullptr, task.cols, most));
  y[0] = log_sum == log_sum ? most : log_sum;  // which number is the largest beside a NaN depends on the kernel
  y[1] = log_sum;
}

// 1 / sqrt(sum of (x - mean)^2 / cols + eps).
template <class V, bool kCentred>
float inverse_deviation(const RowsTask& task, const float* x, float mean) {
  typename V::Float sums[V::kVecs];
  for (auto& s : sums) s = V::set1(0.0f);
  for_each_block<V>(task.cols, [&](auto access, std::int64_t i) {
    for (int v = 0; v < V::kVecs; ++v) {
      auto d = access.load(x + i, v, mean);
      if constexpr (kCentred) d = d - V::set1(mean);
      sums[v] = V::fma(d, d, sums[v]);
    }
  });
  return 1.0f / __builtin_sqrtf(V::sum(sums) / static_cast<float>(task.cols) + task.eps);
}

template <class V>
void rms_norm_row(const RowsTask& task, const float* x, float* y) {
  const auto r = V::set1(inverse_deviation<V, false>(task, x, 0.0f));
  for_each_block<V>(task.cols, [&](auto access, std::int64_t i) {
    for (int v = 0; v < V::kVecs; ++v) {
      auto value = access.load(x + i, v, 0.0f) * r;
      if (task.weight != nullptr) value = value * access.load(task.weight + i, v, 0.0f);
      access.store(y + i, v, value);
    }
  });
}

template <class V>
void layer_norm_row(const RowsTask& task, const float* x, float* y) {
  typename V::Float sums[V::kVecs];
  for (auto& s : sums) s = V::set1(0.0f);
  for_each_block<V>(task.cols, [&](auto access, std::int64_t i) {
    for (int v = 0; v < V::kVecs; ++v) sums[v] = sums[v] + access.load(x + i, v, 0.0f);
  });
  const float mean = V::sum(sums) / static_cast<float>(task.cols);
  const auto r = V::set1(inverse_deviation<V, true>(task, x, mean));
  for_each_block<V>(task.cols, [&](auto access, std::int64_t i) {
    for (int v = 0; v < V::kVecs; ++v) {
      auto value = (access.load(x + i, v, 0.0f) - V::set1(mean)) * r;
      if (task.weight != nullptr && task.bias != nullptr) {
        value = V::fma(value, access.load(task.weight + i, v, 0.0f), access.load(task.bias + i, v, 0.0f));
      } else if (task.weight != nullptr) {
        value = value * access.load(task.weight + i, v, 0.0f);
      } else if (task.bias != nullptr) {
        value = value + access.load(task.bias + i, v, 0.0f);
      }
      access.store(y + i, v, value);
    }
  });
}

template <void (*kRow)(const RowsTask&, const float*, float*)>
void rows(const RowsTask& task) {
  for (std::int64_t i = 0; i < task.rows; ++i) kRow(task, task.x + i * task.x_stride, task.y + i * task.y_stride);
}

}  // namespace
}  // namespace octavo
