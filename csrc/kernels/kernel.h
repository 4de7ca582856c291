// The contract between gemm/ and one instruction set's kernels.
//
//   dst[m, n] = epilogue( sum_k lhs[m, k] * rhs[k, n] )        lhs, rhs int8; the sum in int32, exact or wrapped
//
// The core multiplies int8 by int8 and nothing else. uint8 operands arrive as x ^ 0x80 (that is x - 128) with their
// zero point lowered by 128; zero points are undone by the epilogue in integers, with the sums of rows and columns.
//
// Packed rhs ("panels"): [N / nr][K / kr][nr][kr] int8, zero-padded in N and K. With nr = 16 and kr = 4:
//
//        k 0..3  of column 0 | k 0..3 of column 1 | ... | k 0..3 of column 15     <- 64 bytes, one cache line
//        k 4..7  of column 0 | ...                                                <- the next line
//
// is what VPDPBUSD, a row of an AMX tile and, by halves, VPMADDUBSW all take. A panel is one contiguous run of memory,
// and a panel follows the panel before it. kRhsSlackBytes after the last panel may be read (never used): a kernel whose
// step in K is longer than kr reads on, against zeros in its own lhs.
//
// Packed lhs: each kernel chooses its own form, which only its own gemm reads. Rows start as float32 (quantize_lhs) or
// as int8 (pack_lhs).
//
// Kernel files include this header, <cstdint>, <cstddef>, their intrinsics and kernels/detail; they allocate nothing,
// start no thread, throw nothing and define no symbol that another object could share.
#pragma once

#include <cstddef>
#include <cstdint>

namespace octavo {

inline constexpr std::int64_t kRhsSlackBytes = 1024;

// Rows whose range is below this count as zeros: 255 / range and range / 255 stay normal float32 numbers above it.
inline constexpr float kSmallestRange = 0x1p-100f;

inline constexpr std::int64_t kFactorPad = 64;

// What becomes of a row before it is quantized: blocks of its elements are rotated (`rotate` of kernels/functions.h)
// into memory of the caller's.
struct InputRotation {
  void (*rotate)(const float* x, const float* factor, float* y, std::int64_t k, std::int64_t block);
  std::int64_t k, block;
  float* row;  // k elements

  const float* of(const float* x, const float* factor) const {
    rotate(x, factor, row, k, block);
    return row;
  }
};

// float32 rows to packed int8 rows, and each row's scale and zero point. See docs/design.md, "Numeric contract".
//   symmetric:   a = max|x|,  scale = a / 127,  q = rint(x * (127 / a)),  zero_point = 0
//   asymmetric:  lo = min(x, 0), hi = max(x, 0), scale = (hi - lo) / 255,
//                z = clamp(-128 - rint(lo / scale), -128, 127),
//                q = int(clamp(rint(x * (255 / (hi - lo))), -128 - z, 127 - z)) + z
// A range below kSmallestRange: scale 1, q = z. NaN, infinity or an overflowing range: scale NaN (and any q).
//   fixed:       q = int(clamp(rint(x * inverse), lo, hi)) + zero_point with the given parameters; infinity
//                saturates, and NaN sets *saw_nan (and gives any q)
// With a factor x is src[k] * factor[k], rounded once. Factors of kFactorPad more k behind the last may be read: zeros.
// With a rotation x is what that makes of it.
struct FixedQuant {
  float scale;
  float inverse;
  std::int32_t zero_point;  // of the int8 values: 128 less than that of uint8 data
  float lo, hi;             // qmin - zero_point and qmax - zero_point
};
struct QuantizeLhs {
  const float* src;         // rows x k
  std::int64_t src_stride;  // elements from a row to the next
  std::int64_t rows;
  std::int64_t k;
  bool asymmetric;
  void* dst;                 // lhs_bytes(rows, k) bytes, 64-byte aligned
  float* scale;              // rows
  std::int32_t* zero_point;  // rows
  const FixedQuant* fixed = nullptr;
  bool* saw_nan = nullptr;        // not null where fixed is not
  const float* factor = nullptr;  // k, and zeros behind
  const InputRotation* rotation = nullptr;
};

// int8 rows to packed rows. `flip` is 0x80 for uint8 data, else 0; every byte is XORed with it.
struct PackLhs {
  const std::uint8_t* src;
  std::int64_t src_stride;
  std::int64_t rows;
  std::int64_t k;
  std::uint8_t flip;
  void* dst;
};

// What becomes of the sums. Arrays over columns hold a multiple of nr elements, zero-padded.
//   kInt32:    dst = acc - lhs_zero_point[m] * rhs_sum[n] - rhs_zero_point[n] * lhs_sum[m]      modulo 2^32
//   kFloat32:  y = float(acc - lhs_zero_point[m] * rhs_sum[n]) * (lhs_scale[m] * rhs_scale[n]);
//              then + bias[n] where there is a bias; then, with relu, y > 0 or NaN ? y : +0
//   kByte:     q = int(clamp(rint(y * dst_inverse), dst_lo, dst_hi)) + dst_zero_point, y as for kFloat32;
//              its low byte is stored, which is int8 or uint8 as the caller has it
// A null pointer means that the term is absent and costs nothing.
enum class DstKind : std::uint8_t { kInt32, kFloat32, kByte };

struct Epilogue {
  DstKind kind;
  bool relu = false;
  const float* lhs_scale = nullptr;              // rows
  const std::int32_t* lhs_zero_point = nullptr;  // rows
  const std::int32_t* lhs_sum = nullptr;         // rows
  const float* rhs_scale = nullptr;              // columns
  const std::int32_t* rhs_zero_point = nullptr;  // columns
  const std::int32_t* rhs_sum = nullptr;         // columns
  const float* bias = nullptr;                   // columns
  float dst_inverse = 0, dst_lo = 0, dst_hi = 0;
  std::int32_t dst_zero_point = 0;
};

// One macro-block: some rows by some panels, over all of K. Pointers of the epilogue start at its first row and column.
struct GemmBlock {
  const void* lhs;                  // packed by the same kernel
  std::int64_t rows;                // >= 1
  const std::int8_t* rhs;           // first panel, 64-byte aligned
  std::int32_t nr, kr;              // the panels' shape, which only a kernel that reads any shape needs
  const std::int32_t* column_sums;  // over k of the int8 values, from the first panel's first column on
  std::int64_t cols;                // >= 1; the last panel may be used in part
  std::int64_t k;                   // >= 1, unpadded
  std::int64_t k_block;             // K is cut into pieces of about this many, so that a panel's piece stays in L1
  void* dst;                        // float, int32 or bytes
  std::int64_t dst_stride;          // elements from a row to the next
  std::int32_t* scratch;            // scratch_elems(rows, k) elements, 64-byte aligned
  Epilogue epilogue;
  // float32 results that are far larger than the caches, whose rows begin and end with cache lines: a kernel may write
  // them past the caches.
  bool stream_dst = false;
  // Most likely no part of the rhs is in a cache.
  bool rhs_cold = false;
};

struct Int4Kernel;     // four-bit weights: kernels/int4.h
struct GroupedKernel;  // grouped codes: kernels/grouped.h
struct IntegerKernel;  // integers of any width: kernels/integer.h
struct FunctionKernel;  // float32 functions of elements and rows: kernels/functions.h

// The time of a multiply-add of 16-, 32- or 64-bit elements, as a multiple of this kernel's time for an int8 one.
// of64_narrow is for 64-bit elements if both operands fit in 32 bits. A pass over a block of sums takes as long as
// pass_k more k of int8.
struct IntegerCosts {
  double of16, of32, of64, of64_narrow;
  double pass_k;
};

// Weights of which a part stays in the L2 cache between calls.
inline constexpr std::int64_t kNearWeightBytes = 1 << 20;

struct Kernel {
  const char* name;
  std::uint32_t features;  // Feature bits, all needed
  // The panels it reads. nr = kr = 0: any (the portable kernel). All others of an architecture read the same.
  std::int32_t nr, kr;
  std::int32_t mr;              // rows of a register tile: blocks of rows are multiples of it where there are enough
  std::int32_t panels;          // panels of a register tile, and
  std::int32_t lhs_elem_bytes;  // bytes an lhs value takes when packed: for choosing blocks
  std::int64_t (*lhs_bytes)(std::int64_t rows, std::int64_t k);
  std::int64_t (*scratch_elems)(std::int64_t rows, std::int64_t k);
  void (*quantize_lhs)(const QuantizeLhs&);
  void (*pack_lhs)(const PackLhs&);
  void (*gemm)(const GemmBlock&);
  // The same, for at most gemv_max_rows rows: streams the panels once, from memory.
  void (*gemv)(const GemmBlock&);
  std::int64_t gemv_max_rows;
  double multiply_adds_per_us;  // by one thread, within a factor of two or so: for planning threads
  // Four-bit weights. Null: they go to the next kernel of the table that runs here and has them.
  const Int4Kernel* int4 = nullptr;
  const GroupedKernel* grouped = nullptr;  // grouped codes, likewise
  const IntegerKernel* integer;
  IntegerCosts integer_costs;
  // Products of fewer rows go to the next kernel of the table that runs here, which is faster for them. Where int8
  // weights take at most kNearWeightBytes, min_rows_near counts, if it is not 0.
  std::int64_t min_rows = 1, min_rows_near = 0;
  const FunctionKernel* functions = nullptr;  // as int4: null leaves them to the next kernel that has them
  // Rows can be packed in separate parts if each part starts at a row r that is a multiple of this. A part then starts
  // lhs_bytes(r) bytes into the buffer, where it is aligned. 0: all rows must be packed in one call.
  std::int64_t apart_rows = 0;
  // It takes K in pieces where rows are long: blocks of many rows need not fit the L2 cache.
  bool long_rows = false;
};

}  // namespace octavo
