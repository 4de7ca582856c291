// The contract for grouped codes: weights of 4 to 8 bits with parameters for groups of consecutive k, as quantized
// files hold them, and activations of int8 or int16, with a scale a row or a group.
//
//   A_g = sum over k of group g of q_x[m, k] * (u[n, k] - offset[n, g])          R_g = the sum of q_x[m, k] alone
//
//   one level    acc = fma(float(A_g), scale[n, g], acc), then with minima acc = fma(float(R_g), minimum[n, g], acc)
//   two levels   S = sum of group_scale[n, g] * A_g, M = sum of group_minimum[n, g] * R_g over 256 k, both exact:
//                acc = fma(float(S), scale[n, s], acc), then with minima acc = fma(-float(M), minimum[n, s], acc)
//
// g ascending, acc from 0; then dst = acc * lhs_scale[m], + bias[n], relu. Where the activations are scaled in groups,
// acc starts from 0 in each of them and y = fma(acc, lhs_scale[m, group], y). Every sum is exact and every float
// operation is written out, so all kernels give the same bits. q_x is less its row's zero point, where it has one. An
// int16 value is 256 h + l with h and l of int8; sums of h and of l are joined exactly before the one rounding.
//
// Packed codes u, unsigned. A line of 64 bytes is 4 k of 16 columns, as in the int8 panels:
//
//        8 bits    k 0..3 of column 0 | k 0..3 of column 1 | ... | k 0..3 of column 15       [N / 16][K / 4][16][4]
//        4 bits    low nibbles k 0..3, high nibbles k 32..35 of the same columns             [N / 16][K / 64][8][16][4]
//        5, 6      planes, then the nibbles of a chunk:                          [N / 16][K / 64][10 or 12][16][4]
//                  2 lines, a byte of the first: bit 4 of k, k + 4, .. k + 28 from the lowest bit on, of one column;
//                  or 4 lines, a byte of the first: bits 4 and 5 of k, k + 4, k + 8, k + 12, likewise
//
// zero-padded to whole panels and to 64 k. For a few rows, some kernels multiply the planes directly. Otherwise codes
// of 5 and 6 bits are first expanded to bytes in scratch memory: a piece of a panel at a time for one tile of rows,
// some panels at a time for more. The shape of a panel is the same for every kernel, on every architecture.
//
// Parameters lie beside each other in the order in which they are used, [N / 16][records] of
//
//        one level     a record a group:   scale[16], minimum[16]
//        two levels    a record per 256 k: scale[16], minimum[16], group_scale[groups][16],
//                                          group_minimum[groups / 2][16][2]
//
// with float32 or float16 scales and minima and 8-bit integers; what is absent takes no room.
//
// Bounds: a group of at most 256 k has |A_g| <= 256 * 32639 * 255 < 2^31; longer ones are refused beyond int32. A
// super-block has |S|, and of int16 |S_h| and |S_l|, <= 256 * 128 * 255 * 255 < 2^31. If rows have zero points, the 128
// becomes 255, and the sum exceeds the bound only with codes and scales near 255; such weights are refused, too.
// Intermediate sums may wrap.
#pragma once

#include <cstdint>

#include "kernels/kernel.h"

namespace octavo {

inline constexpr std::int64_t kGroupedNr = 16;
inline constexpr std::int64_t kGroupedKr = 4;
inline constexpr std::int64_t kGroupedLineBytes = kGroupedNr * kGroupedKr;
inline constexpr std::int64_t kGroupedPadK = 64;       // K is padded to a multiple of it, a chunk
inline constexpr std::int64_t kGroupedChunkLines = 8;  // of the nibbles of a chunk
inline constexpr std::int64_t kGroupedStepK = 16;      // the smallest group
inline constexpr std::int64_t kSuperK = 256;           // of a record of two levels

// Functions here are always inlined: an unoptimised object would hold copies that others could share (kernel.h).
struct GroupedForm {
  std::int64_t k;
  std::int64_t group_k;  // 16, 32, 64, 128, 256, or padded_k(): one group
  std::int32_t bits;     // 4, 5, 6 or 8
  std::int32_t offset;   // of every code, unless
  bool has_offsets;      // each group and column has its own
  bool half;             // scales and minima are float16
  bool has_minimum;
  bool two_level;
  bool signed_scale;  // of a group, where there are two levels

  [[gnu::always_inline]] std::int64_t padded_k() const { return (k + kGroupedPadK - 1) / kGroupedPadK * kGroupedPadK; }
  [[gnu::always_inline]] std::int64_t groups() const { return group_k > k ? 1 : (k + group_k - 1) / group_k; }
  [[gnu::always_inline]] std::int64_t record_k() const { return two_level ? kSuperK : group_k; }
  [[gnu::always_inline]] std::int64_t records() const { return two_level ? k / kSuperK : groups(); }
  [[gnu::always_inline]] std::int64_t panel_bytes() const { return padded_k() * kGroupedNr * bits / 8; }
  // Codes that may have to be made bytes before they are multiplied; what a panel takes then, as one of nibbles does,
  // and how many are made at once for many rows: they share the L2 cache with rows.
  [[gnu::always_inline]] bool in_planes() const { return bits == 5 || bits == 6; }
  [[gnu::always_inline]] std::int64_t wide_panel_bytes() const { return padded_k() * kGroupedNr; }
  [[gnu::always_inline]] std::int64_t wide_panels() const {
    constexpr std::int64_t kWideBytes = 256 << 10, kFewest = 2, kMost = 64;
    const std::int64_t fitting =
        wide_panel_bytes() == 0 ? kFewest : kWideBytes / wide_panel_bytes() / kFewest * kFewest;
    return fitting < kFewest ? kFewest : fitting > kMost ? kMost : fitting;
  }
  // Of a record: where its minima, its groups' scales and their minima stand, and where the next one does.
  [[gnu::always_inline]] std::int64_t floats_bytes() const { return kGroupedNr * (half ? 2 : 4); }
  [[gnu::always_inline]] std::int64_t group_scale_at() const { return floats_bytes() * (has_minimum ? 2 : 1); }
  [[gnu::always_inline]] std::int64_t group_minimum_at() const {
    return group_scale_at() + kSuperK / group_k * kGroupedNr;
  }
  [[gnu::always_inline]] std::int64_t record_bytes() const {
    if (!two_level) return group_scale_at();
    return group_scale_at() + kSuperK / group_k * kGroupedNr * (has_minimum ? 2 : 1);
  }
};

struct GroupedActivations {
  bool int16;
  bool asymmetric;
  std::int64_t group_k;  // 0: one scale a row

  [[gnu::always_inline]] int parts() const { return int16 ? 2 : 1; }
  [[gnu::always_inline]] std::int64_t groups(std::int64_t k) const {
    return group_k == 0 ? 1 : (k + group_k - 1) / group_k;
  }
};

struct QuantizeGroupedLhs {
  const float* src;         // rows x form.k
  std::int64_t src_stride;  // elements from a row to the next
  std::int64_t rows;
  GroupedForm form;
  GroupedActivations activations;
  void* dst;                      // lhs_bytes(...) bytes, 64-byte aligned
  const float* factor = nullptr;  // this and the rotation as in QuantizeLhs
  const InputRotation* rotation = nullptr;
};

// One macro-block: some rows by some panels. Pointers start at its first row and first panel.
struct GroupedBlock {
  GroupedForm form;
  GroupedActivations activations;
  const void* lhs;  // packed by the same kernel
  std::int64_t rows;
  const std::uint8_t* rhs;      // 64-byte aligned
  const std::uint8_t* records;  // of the first panel
  const std::uint8_t* offsets;  // [panel][group][16]; null: form.offset
  const std::int32_t* sums;     // [panel][group][16], of u over k; null where no row has a zero point
  std::int64_t cols;            // the last panel may be used in part
  const float* bias;            // columns, padded to 16; or null
  bool relu;
  float* dst;
  std::int64_t dst_stride;
  std::uint8_t* scratch;  // scratch_bytes(form), 64-byte aligned
  bool far_prefetch;      // of codes that come from memory, where the CPU gains by it: detail/x86_stream.h
};

struct GroupedKernel {
  std::int32_t mr;              // rows of a register tile, as Kernel::mr
  double multiply_adds_per_us;  // as Kernel::multiply_adds_per_us
  // Each row takes the same number of bytes, a multiple of 64, one row after the other.
  std::int64_t (*lhs_bytes)(std::int64_t rows, const GroupedForm&, const GroupedActivations&);
  std::int64_t (*scratch_bytes)(const GroupedForm&);
  void (*quantize_lhs)(const QuantizeGroupedLhs&);
  void (*gemm)(const GroupedBlock&);
  // Fewer rows, and int16 activations where it does not multiply them faster, go to the next kernel of the table.
  // Forced, it takes any rows, and may hand them on.
  std::int64_t min_rows = 1;
  bool for_int16 = true;
};

}  // namespace octavo
