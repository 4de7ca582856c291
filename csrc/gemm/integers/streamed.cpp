#include "gemm/integers/streamed.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/aligned_buffer.h"
#include "base/result_pool.h"
#include "base/thread_pool.h"
#include "gemm/gemm.h"

namespace octavo {
namespace {

// More vectors than an element has bytes are packed for: by measurement that takes less, or as much, from the caches.
constexpr std::int64_t most_vectors(std::int32_t elem_bytes) { return elem_bytes; }

// Vectors that have to be brought to the result's type are copied, so many bytes at most.
constexpr std::int64_t kCopiedBytes = 16 << 20;

// Sums of a vector that are made together, in the L1 cache; and lines of the matrix that every vector meets before the
// next ones, which stay in the L2 cache if they are not too long.
constexpr std::int64_t kSumsBytes = 16 << 10, kLines = 8;

// Elements of the matrix below which one thread reads it. Weakly founded. Tasks a thread on average, and outputs of one
// where lines hold an output each.
constexpr std::int64_t kParallelElems = 1 << 18, kTasks = 4, kLeastOutputs = 64;

// The product as vectors times a matrix: out[v, o] = sum_k vectors[v, k] * matrix[o, k].
struct Streamed {
  IntegerMatrix vectors;
  IntegerMatrix matrix;  // rows are the outputs
  bool turned;           // vectors are columns of the rhs, and outputs rows of dst
  bool along_k;          // k of the matrix lie side by side, else its outputs
};

IntegerMatrix transposed(const IntegerMatrix& matrix) {
  IntegerMatrix other = matrix;
  std::swap(other.rows, other.cols);
  std::swap(other.view.row_stride, other.view.col_stride);
  return other;
}

bool describe(const IntegerMatrix& lhs, const IntegerMatrix& rhs, std::int32_t elem_bytes, Streamed& streamed) {
  const auto fits = [&](const IntegerMatrix& matrix) {
    streamed.matrix = matrix;
    const IntegerView& view = matrix.view;
    streamed.along_k = view.col_stride == elem_bytes;
    return view.elem_bytes == elem_bytes && (streamed.along_k || view.row_stride == elem_bytes);
  };
  if (elem_bytes < 4) return false;
  streamed.turned = false;
  streamed.vectors = lhs;
  if (lhs.rows <= most_vectors(elem_bytes) && fits(transposed(rhs))) return true;
  streamed.turned = true;
  streamed.vectors = transposed(rhs);
  return rhs.cols <= most_vectors(elem_bytes) && fits(lhs);
}

// Outputs [first, first + count) of all vectors, kSumsBytes apart. Some lines of the matrix meet every vector before
// the next ones are read.
void sum_outputs(const IntegerKernel& kernel, const Streamed& streamed, const IntegerView& vectors, std::int64_t first,
                 std::int64_t count, std::byte* sums) {
  const IntegerView from = streamed.matrix.view.at(first, 0);
  const std::int64_t k = streamed.matrix.cols, bytes = from.elem_bytes, lines = streamed.along_k ? count : k;
  if (!streamed.along_k) std::memset(sums, 0, static_cast<std::size_t>(streamed.vectors.rows * kSumsBytes));
  for (std::int64_t i = 0; i < lines; i += kLines) {
    const std::int64_t some = std::min(kLines, lines - i);
    for (std::int64_t v = 0; v < streamed.vectors.rows; ++v) {
      const std::byte* const vector = vectors.at(v, 0).data;
      std::byte* const to = sums + v * kSumsBytes;
      if (streamed.along_k) {
        kernel.dot_rows(
            {vector, from.data + i * from.row_stride, from.row_stride, k, some, to + i * bytes, from.elem_bytes});
      } else {
        kernel.add_rows(
            {vector + i * bytes, from.data + i * from.col_stride, from.col_stride, some, count, to, from.elem_bytes});
      }
    }
  }
}

void put_outputs(const Streamed& streamed, const std::byte* sums, std::int64_t vector, std::int64_t first,
                 std::int64_t count, const IntegerResult& dst) {
  const auto bytes = static_cast<std::size_t>(dst.elem_bytes);
  if (!streamed.turned) {
    std::memcpy(dst.at(vector, first).data, sums, static_cast<std::size_t>(count) * bytes);
    return;
  }
  for (std::int64_t i = 0; i < count; ++i) {
    std::memcpy(dst.at(first + i, vector).data, sums + i * dst.elem_bytes, bytes);
  }
}

}  // namespace

bool multiply_streamed(const Kernel& kernel, const IntegerMatrix& lhs, const IntegerMatrix& rhs,
                       const IntegerResult& dst, CallReport& report) {
  Streamed streamed{};
  if (!describe(lhs, rhs, dst.elem_bytes, streamed)) return false;
  const std::int64_t count = streamed.vectors.rows, k = lhs.cols, outputs = streamed.matrix.rows;
  IntegerView vectors = streamed.vectors.view;
  CallMemory copy;
  if (vectors.elem_bytes != dst.elem_bytes || vectors.col_stride != dst.elem_bytes) {
    const std::int64_t bytes = count * k * dst.elem_bytes;
    if (bytes > kCopiedBytes) return false;
    copy.reserve(memory_bytes(bytes));
    kernel.integer->load({vectors, count, k, 0, copy.as<void>(), k, dst.elem_bytes});
    vectors = {copy.as<std::byte>(), k * dst.elem_bytes, dst.elem_bytes, dst.elem_bytes, true};
  }
  const std::int64_t at_once = kSumsBytes / dst.elem_bytes;
  const int threads = outputs * k < kParallelElems ? 1 : num_threads();
  const std::int64_t least = streamed.along_k ? kLines : kLeastOutputs;
  const std::int64_t tasks = std::max(ceil_div(outputs, at_once), std::min(kTasks * threads, outputs / least));
  const auto run = [&](std::int64_t i) {
    static thread_local AlignedBuffer sums;
    const std::int64_t first = outputs * i / tasks, some = outputs * (i + 1) / tasks - first;
    sums.reserve(memory_bytes(count * kSumsBytes));
    sum_outputs(*kernel.integer, streamed, vectors, first, some, sums.as<std::byte>());
    for (std::int64_t v = 0; v < count; ++v) {
      put_outputs(streamed, sums.as<std::byte>() + v * kSumsBytes, v, first, some, dst);
    }
  };
  report.run_by(kernel.name, static_cast<int>(std::min<std::int64_t>(threads, tasks)));
  report.split(tasks, streamed.turned ? "rows" : "columns");
  parallel_for_if(threads > 1, tasks, run);
  return true;
}

}  // namespace octavo
