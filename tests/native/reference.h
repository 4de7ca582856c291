// The definitions that every kernel is held against, one element at a time: docs/design.md as code, nothing clever.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace octavo::test {

struct QuantizedRow {
  float scale;
  std::int32_t zero_point;
  std::vector<std::int32_t> q;
};

inline QuantizedRow quantize_row(const float* x, std::int64_t k, bool asymmetric) {
  float lo = 0, hi = 0;
  bool finite = true;
  for (std::int64_t i = 0; i < k; ++i) {
    finite = finite && std::isfinite(x[i]);
    lo = std::min(x[i], lo);
    hi = std::max(x[i], hi);
  }
  const float range = asymmetric ? hi - lo : std::max(hi, -lo);
  QuantizedRow row{1.0f, asymmetric ? -128 : 0, {}};
  row.q.assign(static_cast<std::size_t>(k), row.zero_point);
  if (!finite || !std::isfinite(range)) {
    row.scale = std::numeric_limits<float>::quiet_NaN();
  } else if (range >= 0x1p-100f) {
    const float steps = asymmetric ? 255.0f : 127.0f;
    row.scale = range / steps;
    if (asymmetric) {
      row.zero_point = static_cast<std::int32_t>(std::clamp(-128.0f - std::rint(lo / row.scale), -128.0f, 127.0f));
    }
    const float inverse = steps / range, z = static_cast<float>(row.zero_point);
    for (std::int64_t i = 0; i < k; ++i) {
      const float rounded = std::clamp(std::rint(x[i] * inverse), -128.0f - z, 127.0f - z);
      row.q[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(rounded) + row.zero_point;
    }
  }
  return row;
}

// q_w is (n, k); y is (m, n).
inline std::vector<float> linear(const std::vector<float>& x, std::int64_t m, std::int64_t k, std::int64_t n,
                                 const std::vector<std::int8_t>& q_w, const std::vector<float>& s_w, const float* bias,
                                 bool asymmetric, bool relu) {
  std::vector<float> y(static_cast<std::size_t>(m * n));
  for (std::int64_t i = 0; i < m; ++i) {
    const QuantizedRow row = quantize_row(x.data() + i * k, k, asymmetric);
    for (std::int64_t j = 0; j < n; ++j) {
      std::int64_t acc = 0;
      for (std::int64_t l = 0; l < k; ++l) {
        acc += static_cast<std::int64_t>(row.q[static_cast<std::size_t>(l)] - row.zero_point) *
               q_w[static_cast<std::size_t>(j * k + l)];
      }
      const float scale = row.scale * s_w[static_cast<std::size_t>(j)];
      float value = static_cast<float>(static_cast<std::int32_t>(acc)) * scale;
      if (bias != nullptr) value = value + bias[j];
      if (relu && !std::isnan(value)) value = value > 0 ? value : 0.0f;
      y[static_cast<std::size_t>(i * n + j)] = value;
    }
  }
  return y;
}

// Four-bit weights: q_w is (n, k), s_w and z_w are (n, G), G = ceil(k / group_k).
struct Int4Reference {
  std::int64_t n, k, group_k;
  std::vector<std::int8_t> q_w;
  std::vector<float> s_w;
  std::vector<std::int8_t> z_w;
  std::int64_t groups() const { return (k + group_k - 1) / group_k; }
};

inline float int4_sum(const QuantizedRow& row, const Int4Reference& w, std::int64_t j) {
  float y = 0.0f;
  for (std::int64_t g = 0; g < w.groups(); ++g) {
    const auto at = static_cast<std::size_t>(j * w.groups() + g);
    std::int64_t acc = 0;
    for (std::int64_t l = g * w.group_k; l < std::min(w.k, (g + 1) * w.group_k); ++l) {
      acc += static_cast<std::int64_t>(row.q[static_cast<std::size_t>(l)] - row.zero_point) *
             (w.q_w[static_cast<std::size_t>(j * w.k + l)] - w.z_w[at]);
    }
    const float f = static_cast<float>(static_cast<std::int32_t>(acc)) * w.s_w[at];
    y = y + f;
  }
  return y;
}

inline std::vector<float> linear_int4(const std::vector<float>& x, std::int64_t m, const Int4Reference& w,
                                      const float* bias, bool asymmetric, bool relu) {
  std::vector<float> y(static_cast<std::size_t>(m * w.n));
  for (std::int64_t i = 0; i < m; ++i) {
    const QuantizedRow row = quantize_row(x.data() + i * w.k, w.k, asymmetric);
    for (std::int64_t j = 0; j < w.n; ++j) {
      float value = int4_sum(row, w, j) * row.scale;
      if (bias != nullptr) value = value + bias[j];
      if (relu && !std::isnan(value)) value = value > 0 ? value : 0.0f;
      y[static_cast<std::size_t>(i * w.n + j)] = value;
    }
  }
  return y;
}

// q = int(clamp(rint(x r), qmin - z, qmax - z)) + z with r = fl(1/s).
inline std::int32_t quantize(float x, float scale, std::int32_t zero_point, std::int32_t qmin, std::int32_t qmax) {
  const float lo = static_cast<float>(qmin - zero_point), hi = static_cast<float>(qmax - zero_point);
  return static_cast<std::int32_t>(std::clamp(std::rint(x * (1.0f / scale)), lo, hi)) + zero_point;
}

inline bool same_bits(float a, float b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  std::uint32_t x, y;
  std::memcpy(&x, &a, sizeof x);
  std::memcpy(&y, &b, sizeof y);
  return x == y;
}

}  // namespace octavo::test
