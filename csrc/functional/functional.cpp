#include "functional/functional.h"

#include <algorithm>

#include "base/arch.h"
#include "base/rounding.h"
#include "base/thread_pool.h"
#include "gemm/registry.h"

namespace octavo {
namespace {

// Elements of one task: about 10 us of exp, which is large beside the cost of handing it out. A multiple of 16, so that
// the pieces of an array are whole blocks of the kernels' lanes.
constexpr std::int64_t kTaskElems = 16384;

std::int64_t rows_of_task(std::int64_t cols) { return std::max<std::int64_t>(1, kTaskElems / cols); }

// work(first, count) for pieces of 0 .. total - 1 of at most `piece` each.
template <class Work>
void in_pieces(std::int64_t total, std::int64_t piece, const Work& work) {
  parallel_for(ceil_div(total, piece), [&](std::int64_t task) {
    const DefaultFloatEnvironment environment;
    work(task * piece, std::min(piece, total - task * piece));
  });
}

}  // namespace

void run_elementwise(Elementwise f, const float* x, float* y, std::int64_t count) {
  const auto function = functions_in_use().elementwise[static_cast<int>(f)];
  in_pieces(count, kTaskElems, [&](std::int64_t at, std::int64_t n) { function(x + at, y + at, n); });
}

void run_swiglu(const float* gate, const float* up, float* y, std::int64_t count) {
  const auto function = functions_in_use().swiglu;
  in_pieces(count, kTaskElems, [&](std::int64_t at, std::int64_t n) { function(gate + at, up + at, y + at, n); });
}

void run_swiglu(const GatedRows& task) {
  const auto function = functions_in_use().swiglu;
  in_pieces(task.rows, rows_of_task(task.cols), [&](std::int64_t at, std::int64_t n) {
    for (std::int64_t row = at; row < at + n; ++row) {
      function(task.gate + row * task.gate_stride, task.up + row * task.up_stride, task.y + row * task.cols, task.cols);
    }
  });
}

void run_rowwise(Rowwise f, const RowsTask& task) {
  const auto function = functions_in_use().rowwise[static_cast<int>(f)];
  in_pieces(task.rows, rows_of_task(task.cols), [&](std::int64_t at, std::int64_t n) {
    RowsTask part = task;
    part.x += at * task.x_stride;
    part.y += at * task.y_stride;
    part.rows = n;
    function(part);
  });
}

}  // namespace octavo
