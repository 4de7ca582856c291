// The table of kernels: what a row has to say for dispatch, planning and the tests to work with it. A new instruction
// set is one file and one row, and these checks say what the row lacks.
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "base/arch.h"
#include "check.h"
#include "gemm/registry.h"
#include "kernels/grouped.h"
#include "kernels/int4.h"

namespace octavo::test {
namespace {

const std::vector<std::string> kRows = {
#define OCTAVO_KERNEL(name) #name,
#include "kernels/kernels.inc"
#undef OCTAVO_KERNEL
};

std::uint32_t known_bits() {
  std::uint32_t bits = 0;
  for (const FeatureName& f : known_features()) bits |= f.feature;
  return bits;
}

void check_int4(const std::string& name, const Int4Kernel& int4) {
  check(int4.lhs_bytes != nullptr && int4.scratch_bytes != nullptr && int4.quantize_lhs != nullptr &&
            int4.gemm != nullptr && int4.gemv != nullptr,
        name + " int4: a function is missing");
  check(int4.mr >= 1 && int4.gemv_max_rows >= 1 && int4.multiply_adds_per_us > 0, name + " int4: sizes and rate");
  check(int4.lhs_bytes(1, {32, 32, false}) >= 32, name + " int4: lhs_bytes");
}

void check_grouped(const std::string& name, const GroupedKernel& grouped) {
  check(grouped.lhs_bytes != nullptr && grouped.scratch_bytes != nullptr && grouped.quantize_lhs != nullptr &&
            grouped.gemm != nullptr,
        name + " grouped: a function is missing");
  check(grouped.mr >= 1 && grouped.min_rows >= 1 && grouped.multiply_adds_per_us > 0,
        name + " grouped: sizes and rate");
}

void check_row(const Kernel& kernel) {
  const std::string name = kernel.name;
  const bool portable = &kernel == all_kernels().back();
  check(kernel.lhs_bytes != nullptr && kernel.scratch_elems != nullptr && kernel.quantize_lhs != nullptr &&
            kernel.pack_lhs != nullptr && kernel.gemm != nullptr && kernel.gemv != nullptr,
        name + ": a function is missing");
  check(kernel.mr >= 1 && kernel.panels >= 1 && kernel.lhs_elem_bytes >= 1 && kernel.gemv_max_rows >= 1 &&
            kernel.min_rows >= 1,
        name + ": sizes are from 1 on");
  check(kernel.lhs_bytes(3, 5) >= 15, name + ": lhs_bytes");
  check((kernel.features & ~known_bits()) == 0, name + ": a feature that base/arch.cpp does not know");
  check((kernel.features == 0) == portable, name + ": the portable kernel alone needs no feature");
  const PanelShape shape = panel_shape();
  check(portable ? kernel.nr == 0 && kernel.kr == 0 : kernel.nr == shape.nr && kernel.kr == shape.kr,
        name + ": panels as all kernels of the architecture have them, or any");
  if (kernel.int4 != nullptr) check_int4(name, *kernel.int4);
  if (kernel.grouped != nullptr) check_grouped(name, *kernel.grouped);
}

void check_table() {
  const std::vector<const Kernel*>& kernels = all_kernels();
  check(kernels.size() == kRows.size(), "as many kernels as rows");
  std::set<std::string> names;
  for (std::size_t i = 0; i < kernels.size(); ++i) {
    check(kRows[i] == kernels[i]->name, "row " + kRows[i] + " names its kernel " + kernels[i]->name);
    check(names.insert(kernels[i]->name).second, kRows[i] + " stands twice");
    check(find_kernel(kRows[i]) == kernels[i], kRows[i] + " is found by name");
    if (i > 0) {
      check(kernels[i]->multiply_adds_per_us < kernels[i - 1]->multiply_adds_per_us,
            kRows[i] + " is no slower than the row above: the table is best first");
    }
    check_row(*kernels[i]);
  }
  const Kernel& portable = *kernels.back();
  check(portable.min_rows == 1 && portable.int4 != nullptr && portable.grouped != nullptr,
        "the portable kernel takes what no other does");
}

}  // namespace
}  // namespace octavo::test

int main() {
  octavo::test::check_table();
  return octavo::test::finish();
}
