// What products with grouped codes are: kernels/grouped.h in the plainest C++, an output at a time. std::fma is the
// library's, so that the portable kernel's own is held against another.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/grouped.h"

namespace octavo::test {

struct GroupedReference {
  std::int64_t n, k, group_k;
  std::vector<std::int32_t> codes, zero_point;           // (n, k), (n, groups): zeros where there are none
  std::vector<float> scale, minimum;                     // (n, records); minimum may be empty
  std::vector<std::int32_t> group_scale, group_minimum;  // (n, groups), or empty
  std::int64_t groups() const { return k / group_k; }
  std::int64_t record_k() const { return group_scale.empty() ? group_k : kSuperK; }
  std::int64_t records() const { return k / record_k(); }
};

struct GroupedRow {
  std::vector<std::int32_t> q;  // less the zero point
  std::vector<float> scale;     // one a group of activations
};

inline void quantize_run(const float* x, std::int64_t n, const GroupedActivations& how, std::int32_t* q, float* scale) {
  float lo = 0, hi = 0;
  bool finite = true;
  for (std::int64_t i = 0; i < n; ++i) {
    finite = finite && std::isfinite(x[i]);
    lo = std::fmin(lo, x[i]);
    hi = std::fmax(hi, x[i]);
    q[i] = 0;
  }
  const float reach = how.asymmetric ? hi - lo : std::fmax(hi, -lo);
  const float steps = how.asymmetric ? 255.0f : how.int16 ? 32639.0f : 127.0f;
  *scale = 1.0f;
  if (!finite || !std::isfinite(reach)) *scale = std::numeric_limits<float>::quiet_NaN();
  if (!finite || !std::isfinite(reach) || reach < 0x1p-100f) return;
  *scale = reach / steps;
  const float inverse = steps / reach;
  const float z = how.asymmetric ? std::fmax(-128.0f, std::fmin(127.0f, -128.0f - std::nearbyint(lo / *scale))) : 0.0f;
  for (std::int64_t i = 0; i < n; ++i) {
    float v = std::nearbyint(x[i] * inverse);
    if (how.asymmetric) v = std::fmax(-128.0f - z, std::fmin(127.0f - z, v));
    q[i] = static_cast<std::int32_t>(v);
  }
}

inline GroupedRow quantize_row(const float* x, std::int64_t k, const GroupedActivations& how) {
  GroupedRow row{std::vector<std::int32_t>(static_cast<std::size_t>(k)), {}};
  const std::int64_t run = how.group_k == 0 ? k : how.group_k;
  for (std::int64_t k0 = 0; k0 < k; k0 += run) {
    row.scale.push_back(0);
    quantize_run(x + k0, std::min(run, k - k0), how, row.q.data() + k0, &row.scale.back());
  }
  return row;
}

// acc with the record of `record_k` k from `record` on added.
inline float add_record(float acc, const GroupedRow& row, const GroupedReference& w, std::int64_t n,
                        std::int64_t record) {
  std::int64_t products = 0, sums = 0;
  const std::int64_t size = w.record_k();
  for (std::int64_t k = record * size; k < (record + 1) * size; ++k) {
    const auto g = static_cast<std::size_t>(n * w.groups() + k / w.group_k);
    const std::int64_t q = row.q[static_cast<std::size_t>(k)];
    const std::int64_t code = w.codes[static_cast<std::size_t>(n * w.k + k)] - w.zero_point[g];
    products += q * code * (w.group_scale.empty() ? 1 : w.group_scale[g]);
    sums += q * (w.group_minimum.empty() ? 1 : w.group_minimum[g]);
  }
  const auto at = static_cast<std::size_t>(n * w.records() + record);
  acc = std::fma(static_cast<float>(products), w.scale[at], acc);
  if (w.minimum.empty()) return acc;
  const float sum = static_cast<float>(sums);
  return std::fma(w.group_scale.empty() ? sum : -sum, w.minimum[at], acc);
}

inline float grouped_output(const GroupedRow& row, const GroupedReference& w, std::int64_t n,
                            const GroupedActivations& how, const float* bias, bool relu) {
  const std::int64_t run = (how.group_k == 0 ? w.k : how.group_k) / w.record_k();
  float y = 0;
  for (std::int64_t begin = 0, a = 0; begin < w.records(); begin += run, ++a) {
    float acc = 0;
    for (std::int64_t i = begin; i < std::min(begin + run, w.records()); ++i) acc = add_record(acc, row, w, n, i);
    const float scale = row.scale[static_cast<std::size_t>(a)];
    y = how.group_k == 0 ? acc * scale : std::fma(acc, scale, y);
  }
  if (bias != nullptr) y = y + bias[n];
  return relu && y <= 0 ? 0.0f : y;
}

}  // namespace octavo::test
