// Activations for grouped codes: rows of float32 to records of integers and sums, in standard C++ that every compiler
// makes vectors of. Included per kernel file; everything is in an anonymous namespace.
//
// A row's record, whose parts the functions of GroupedLhs find:
//
//        q       parts x padded k   int8: of int16 activations the h of all k, then the l
//        starts  parts x groups     int32: what the sums of the group start with, -offset * R_g where all codes count
//                                   from one offset. A kernel that lessens 8-bit codes by kByteBias, to make them
//                                   signed, gets kByteBias * (sum of q) back here
//        minus   parts x groups     int32: -R_g, which offsets of groups multiply
//        sums    groups             float(R_g), which minima of one level multiply
//        pairs   parts x groups     int16: R_g, which minima of two levels multiply
//        scale   groups of activations, float; then the row's zero point, int32
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/detail/row_quant.h"
#include "kernels/grouped.h"

namespace octavo {
namespace {

struct GroupedLhs {
  std::int64_t part_bytes, groups, starts_at, minus_at, sums_at, pairs_at, scale_at, zero_at, row_bytes;

  GroupedLhs(const GroupedForm& form, const GroupedActivations& activations) {
    const std::int64_t parts = activations.parts();
    part_bytes = form.padded_k();
    if (part_bytes % 2048 == 0) part_bytes += 64;  // or the rows of a tile fall into few sets of the L1 cache
    groups = form.groups();
    starts_at = parts * part_bytes;
    minus_at = starts_at + parts * groups * 4;
    sums_at = minus_at + (form.has_offsets ? parts * groups * 4 : 0);
    pairs_at = sums_at + (form.has_minimum && !form.two_level ? groups * 4 : 0);
    scale_at = pairs_at + (form.has_minimum && form.two_level ? parts * groups * 2 : 0);
    zero_at = scale_at + activations.groups(form.k) * 4;
    row_bytes = (zero_at + 4 + 63) / 64 * 64;
    if (row_bytes % 2048 == 0) row_bytes += 64;
  }
  const char* row(const void* lhs, std::int64_t m) const { return static_cast<const char*>(lhs) + m * row_bytes; }
};

constexpr std::int64_t kShortRun = 32;
constexpr float kInt16Steps = 32639.0f;  // 127 * 256 + 127: h and l both reach 127

// A row, some elements at a time: as they are, or multiplied by their factors in a buffer, so that the loops over them
// are compiled once.
class RowPieces {
 public:
  RowPieces(const QuantizeGroupedLhs& task, std::int64_t m)
      : x_(task.src + m * task.src_stride), factor_(task.rotation == nullptr ? task.factor : nullptr) {
    if (task.rotation != nullptr) x_ = task.rotation->of(x_, task.factor);
  }
  // At most kMost elements from k0 on, until the next are asked for.
  [[gnu::always_inline]] inline const float* at(std::int64_t k0, std::int64_t n) {
    if (factor_ == nullptr) return x_ + k0;
    for (std::int64_t i = 0; i < n; ++i) products_[i] = x_[k0 + i] * factor_[k0 + i];
    return products_;
  }
  // use(piece, i, n) for all of `count` elements from k0 on: piece[0 .. n) are those from k0 + i on.
  template <class Use>
  [[gnu::always_inline]] inline void each(std::int64_t k0, std::int64_t count, const Use& use) {
    for (std::int64_t i = 0; i < count; i += kMost) {
      const std::int64_t n = count - i < kMost ? count - i : kMost;
      use(at(k0 + i, n), i, n);
    }
  }

 private:
  static constexpr std::int64_t kMost = 256;
  const float *x_, *factor_;
  alignas(64) float products_[kMost];
};

[[gnu::always_inline]] inline std::uint32_t max_abs_bits(const float* x, std::int64_t n, std::uint32_t most) {
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint32_t bits = bits_from_float(x[i]) & 0x7fffffffu;
    most = bits > most ? bits : most;
  }
  return most;
}

// Multiplying by the inverse cannot leave int8.
[[gnu::always_inline]] inline void round_run(const float* x, std::int64_t n, float inverse, std::int8_t* q) {
  for (std::int64_t i = 0; i < n; ++i) {
    q[i] = static_cast<std::int8_t>(static_cast<std::int32_t>(rint_small(x[i] * inverse)));
  }
}

// The scale of a run without a zero point, and in `inverse` what its values are multiplied by. Runs of zeros, and those
// with NaNs or infinities, are filled with zeros, and have no inverse.
[[gnu::always_inline]] inline float scale_of_run(std::uint32_t bits, float steps, std::int64_t n, std::int8_t* q,
                                                 float* inverse) {
  const float a = float_from_bits(bits);
  const bool finite = bits < kInfinityBits;
  if (!finite || a < kSmallestRange) {
    std::memset(q, 0, static_cast<std::size_t>(n));
    *inverse = 0.0f;
    return finite ? 1.0f : float_from_bits(kNanBits);
  }
  *inverse = steps / a;
  return a / steps;
}

// Quantizes n elements from k0 on to int8 without a zero point, and returns their scale.
inline float quantize_run(RowPieces& row, std::int64_t k0, std::int64_t n, std::int8_t* q) {
  std::uint32_t most = 0;
  row.each(k0, n, [&](const float* x, std::int64_t, std::int64_t count) { most = max_abs_bits(x, count, most); });
  float inverse;
  const float scale = scale_of_run(most, 127.0f, n, q, &inverse);
  if (inverse == 0.0f) return scale;
  row.each(k0, n, [&](const float* x, std::int64_t i, std::int64_t count) { round_run(x, count, inverse, q + i); });
  return scale;
}

// The same of the most frequent length: its loops become a few vector instructions.
[[gnu::always_inline]] inline float quantize_short_run(RowPieces& row, std::int64_t k0, std::int8_t* q) {
  const float* const x = row.at(k0, kShortRun);
  float inverse;
  const float scale = scale_of_run(max_abs_bits(x, kShortRun, 0), 127.0f, kShortRun, q, &inverse);
  if (inverse != 0.0f) round_run(x, kShortRun, inverse, q);
  return scale;
}

// The same of a whole row in int16.
inline float quantize_int16(RowPieces& row, std::int64_t k, std::int8_t* high, std::int8_t* low) {
  std::uint32_t most = 0;
  row.each(0, k, [&](const float* x, std::int64_t, std::int64_t n) { most = max_abs_bits(x, n, most); });
  float inverse;
  const float scale = scale_of_run(most, kInt16Steps, k, high, &inverse);
  if (inverse == 0.0f) {
    std::memset(low, 0, static_cast<std::size_t>(k));
    return scale;
  }
  row.each(0, k, [&](const float* x, std::int64_t first, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int32_t v = static_cast<std::int32_t>(rint_small(x[i] * inverse)), h = (v + 128) >> 8;
      high[first + i] = static_cast<std::int8_t>(h);
      low[first + i] = static_cast<std::int8_t>(v - 256 * h);
    }
  });
  return scale;
}

// The same of a whole row with a zero point: clamped as integers, which agrees with clamping before rounding.
inline float quantize_asymmetric(RowPieces& row, std::int64_t k, std::int8_t* q, std::int32_t* zero_point) {
  float lo = 0.0f, hi = 0.0f;
  std::uint32_t most = 0;
  row.each(0, k, [&](const float* x, std::int64_t, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) {
      lo = x[i] < lo ? x[i] : lo;
      hi = x[i] > hi ? x[i] : hi;
    }
    most = max_abs_bits(x, n, most);
  });
  const RowQuant rq = row_quant_asymmetric(most, lo, hi);
  *zero_point = rq.zero_point;
  row.each(0, k, [&](const float* x, std::int64_t first, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) {
      std::int32_t v = rq.inverse == 0.0f ? 0 : static_cast<std::int32_t>(rint_small(x[i] * rq.inverse));
      v += rq.zero_point;
      q[first + i] = static_cast<std::int8_t>(v < -128 ? -128 : v > 127 ? 127 : v);
    }
  });
  return rq.scale;
}

template <class T>
inline void put(char* at, std::int64_t i, T value) {
  std::memcpy(at + i * static_cast<std::int64_t>(sizeof(T)), &value, sizeof value);
}

[[gnu::always_inline]] inline std::int32_t sum_of(const std::int8_t* q, std::int64_t n) {
  std::int32_t total = 0;
  for (std::int64_t i = 0; i < n; ++i) total += q[i];
  return total;
}

// Sums of one group, from the row's integers.
template <std::uint32_t kByteBias>
void put_group_sums(const QuantizeGroupedLhs& task, const GroupedLhs& lhs, char* row, std::int64_t g) {
  const GroupedForm& form = task.form;
  const std::int64_t k0 = g * form.group_k, k1 = k0 + form.group_k < form.k ? k0 + form.group_k : form.k;
  std::int32_t zero_point;
  std::memcpy(&zero_point, row + lhs.zero_at, sizeof zero_point);
  std::int32_t joined[2] = {0, 0};
  for (int part = 0; part < task.activations.parts(); ++part) {
    const std::int8_t* q = reinterpret_cast<const std::int8_t*>(row) + part * lhs.part_bytes;
    const std::int32_t total = k1 - k0 == kShortRun ? sum_of(q + k0, kShortRun) : sum_of(q + k0, k1 - k0);
    const std::int32_t sum = total - static_cast<std::int32_t>(k1 - k0) * zero_point;
    joined[part] = sum;
    const std::int64_t at = part * lhs.groups + g;
    // Modulo 2^32: only the finished sum of products has to fit int32.
    const auto wrapped = [](std::int32_t v) { return static_cast<std::uint32_t>(v); };
    const std::uint32_t bias = form.bits != 4 ? kByteBias : 0, offset = form.has_offsets ? 0 : wrapped(form.offset);
    put(row + lhs.starts_at, at, bias * wrapped(total) - offset * wrapped(sum));
    if (form.has_offsets) put(row + lhs.minus_at, at, -sum);
    if (form.has_minimum && form.two_level) put(row + lhs.pairs_at, at, static_cast<std::int16_t>(sum));
  }
  if (!form.has_minimum || form.two_level) return;
  const double exact = task.activations.int16 ? 256.0 * joined[0] + joined[1] : joined[0];
  put(row + lhs.sums_at, g, static_cast<float>(exact));
}

inline std::int64_t grouped_lhs_bytes(std::int64_t rows, const GroupedForm& form,
                                      const GroupedActivations& activations) {
  return rows * GroupedLhs(form, activations).row_bytes;
}

template <std::uint32_t kByteBias>
void quantize_grouped_rows(const QuantizeGroupedLhs& task) {
  const GroupedLhs lhs(task.form, task.activations);
  const std::int64_t k = task.form.k, run = task.activations.group_k == 0 ? k : task.activations.group_k;
  for (std::int64_t m = 0; m < task.rows; ++m) {
    char* row = static_cast<char*>(task.dst) + m * lhs.row_bytes;
    std::int8_t* q = reinterpret_cast<std::int8_t*>(row);
    std::int32_t zero_point = 0;
    RowPieces x(task, m);
    if (task.activations.int16) {
      put(row + lhs.scale_at, 0, quantize_int16(x, k, q, q + lhs.part_bytes));
    } else if (task.activations.asymmetric) {
      put(row + lhs.scale_at, 0, quantize_asymmetric(x, k, q, &zero_point));
    } else {
      for (std::int64_t k0 = 0, a = 0; k0 < k; k0 += run, ++a) {
        const std::int64_t n = k - k0 < run ? k - k0 : run;
        put(row + lhs.scale_at, a, n == kShortRun ? quantize_short_run(x, k0, q + k0) : quantize_run(x, k0, n, q + k0));
      }
    }
    put(row + lhs.zero_at, 0, zero_point);
    for (int part = 0; part < task.activations.parts(); ++part) {
      std::memset(q + part * lhs.part_bytes + k, 0, static_cast<std::size_t>(lhs.part_bytes - k));
    }
    for (std::int64_t g = 0; g < lhs.groups; ++g) put_group_sums<kByteBias>(task, lhs, row, g);
  }
}

}  // namespace
}  // namespace octavo
