#include "gemm/integers/small.h"

#include <algorithm>
#include <cstring>

#include "base/aligned_buffer.h"

namespace octavo {
namespace {

struct Workspace {
  AlignedBuffer panels, rows;
};

template <class T>
T* reserve(AlignedBuffer& buffer, std::int64_t count) {
  buffer.reserve(memory_bytes(count * std::int64_t{sizeof(T)}));
  return buffer.as<T>();
}

}  // namespace

void multiply_small(const IntegerKernel& kernel, const IntegerMatrix& lhs, const IntegerMatrix& rhs,
                    const IntegerResult& dst) {
  static thread_local Workspace space;
  const Form form = dst.elem_bytes <= 4 ? Form::k32 : Form::k64;
  const FormShape shape = form_shape(form);
  const std::int64_t k = lhs.cols, n = rhs.cols, panels = ceil_div(n, shape.cols), panel_bytes = k * kWideLineBytes;
  std::byte* const panel = reserve<std::byte>(space.panels, panels * panel_bytes);
  for (std::int64_t p = 0; p < panels; ++p) {
    const std::int64_t cols = std::min<std::int64_t>(shape.cols, n - p * shape.cols);
    std::byte* const to = panel + p * panel_bytes;
    if (cols < shape.cols) std::memset(to, 0, static_cast<std::size_t>(panel_bytes));
    kernel.load({rhs.view.at(0, p * shape.cols), k, cols, 0, to, shape.cols, shape.elem_bytes});
  }
  const std::byte* rows = lhs.view.data;
  std::int64_t stride = lhs.view.row_stride;
  if (lhs.view.elem_bytes != shape.elem_bytes || lhs.view.col_stride != shape.elem_bytes) {
    std::byte* const to = reserve<std::byte>(space.rows, lhs.rows * k * shape.elem_bytes);
    kernel.load({lhs.view, lhs.rows, k, 0, to, k, shape.elem_bytes});
    rows = to;
    stride = k * shape.elem_bytes;
  }
  const WideBlock block{rows, stride, lhs.rows, panel, panel_bytes, k, n, dst.data, dst.stride, dst.elem_bytes, false};
  (form == Form::k32 ? kernel.multiply32 : kernel.multiply64)(block);
}

}  // namespace octavo
