#include "functional/rope.h"

#include <algorithm>

#include "base/arch.h"
#include "base/rounding.h"
#include "base/thread_pool.h"

namespace octavo {
namespace {

constexpr std::int64_t kTaskElems = 32768;  // about 10 us

// Pairs are read before any is written, some at a time, so that y may be x.
template <bool kInterleaved>
void turn(const float* x, float* y, const float* cos, const float* sin, std::int64_t pairs) {
  constexpr std::int64_t kStep = kInterleaved ? 2 : 1, kChunk = 32;
  const std::int64_t second = kInterleaved ? 1 : pairs;
  for (std::int64_t first = 0; first < pairs; first += kChunk) {
    const std::int64_t count = std::min(kChunk, pairs - first), at = first * kStep;
    float a[kChunk], b[kChunk];
    for (std::int64_t i = 0; i < count; ++i) {
      const float x0 = x[at + i * kStep], x1 = x[at + i * kStep + second], c = cos[first + i], s = sin[first + i];
      a[i] = x0 * c - x1 * s;
      b[i] = x1 * c + x0 * s;
    }
    for (std::int64_t i = 0; i < count; ++i) {
      y[at + i * kStep] = a[i];
      y[at + i * kStep + second] = b[i];
    }
  }
}

}  // namespace

void run_rope(const Rope& task) {
  const std::int64_t width = task.heads * task.dim;
  const std::int64_t rows = std::max<std::int64_t>(1, kTaskElems / std::max<std::int64_t>(1, width));
  const auto one = task.interleaved ? turn<true> : turn<false>;
  parallel_for(ceil_div(task.rows, rows), [&](std::int64_t piece) {
    const DefaultFloatEnvironment environment;
    for (std::int64_t r = piece * rows; r < std::min(task.rows, (piece + 1) * rows); ++r) {
      const float* const c = task.cos + r % task.table_rows * task.pairs;
      const float* const s = task.sin + r % task.table_rows * task.pairs;
      for (std::int64_t h = 0; h < task.heads; ++h) {
        const float* const x = task.x + r * task.x_stride + h * task.x_head_stride;
        float* const y = task.y + r * task.y_stride + h * task.y_head_stride;
        one(x, y, c, s, task.pairs);
        if (x != y) std::copy(x + 2 * task.pairs, x + task.dim, y + 2 * task.pairs);
      }
    }
  });
}

}  // namespace octavo
