// Which kernels exist, which this CPU runs, and which one is in use.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels/kernel.h"

namespace octavo {

// Every kernel of this build, best first.
const std::vector<const Kernel*>& all_kernels();

// Names of the CPU features that `kernel` needs and this machine lacks. Empty where it runs here.
std::vector<std::string> missing_features(const Kernel& kernel);

// nullptr where no kernel has that name.
const Kernel* find_kernel(const std::string& name);

// The forced kernel, else the best that runs here. std::invalid_argument where OCTAVO_ISA names none that does.
const Kernel& active_kernel();

// The kernel for a product of this many rows: the forced one, else the best that runs here and takes so few rows. Not
// every kernel supports every weight format. `can` says whether a kernel does; if a forced kernel does not, the next
// one in the table that does is used. `least` gives the fewest rows for which a kernel is chosen, unless
// OCTAVO_MIN_ROWS or set_min_rows sets that number.
using CanMultiply = bool (*)(const Kernel&);
using LeastRows = std::int64_t (*)(const Kernel&);
const Kernel& kernel_for(
    std::int64_t rows, CanMultiply can = [](const Kernel&) { return true; },
    LeastRows least = [](const Kernel& kernel) { return kernel.min_rows; });

// For int8 weights that take so many bytes.
LeastRows least_rows_of(std::int64_t weight_bytes);

// The functions of elements and rows of the kernel in use, or of the next of the table that has them.
const FunctionKernel& functions_in_use();

// The fewest rows for which a kernel is chosen, whatever the weights, where OCTAVO_MIN_ROWS ("amxint8=9,avx512vnni=1")
// or set_min_rows says so; nothing returns to what was measured. A forced kernel takes any number of rows.
// std::invalid_argument where OCTAVO_MIN_ROWS is not such a list, or rows is below 1.
std::optional<std::int64_t> chosen_min_rows(const Kernel& kernel);
void set_min_rows(const Kernel& kernel, std::optional<std::int64_t> rows);

// From how many rows on a kernel is chosen, by the weights: int8 ones, those of at most kNearWeightBytes, four-bit
// ones, grouped codes. Nothing where it does not multiply such weights.
struct MinRows {
  std::int64_t int8, int8_near;
  std::optional<std::int64_t> int4 = std::nullopt, grouped = std::nullopt;
};
MinRows min_rows(const Kernel& kernel);

// Forces a kernel for the process; nullptr returns to the best. std::invalid_argument where it does not run here.
void force_kernel(const Kernel* kernel);
const Kernel* forced_kernel();

// The rhs panels of this architecture: all kernels but the portable one agree on them.
struct PanelShape {
  std::int32_t nr, kr;
  bool operator==(const PanelShape&) const = default;
};
PanelShape panel_shape();

// K in pieces such that the panels and rows of a kernel's tile share three quarters of the L1 cache.
std::int64_t k_block_of(const Kernel& kernel);

}  // namespace octavo
