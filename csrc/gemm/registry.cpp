#include "gemm/registry.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstdlib>
#include <list>
#include <stdexcept>
#include <utility>
#include <vector>

#include "base/arch.h"
#include "base/caches.h"
#include "base/text.h"
#include "base/threads.h"
#include "kernels/grouped.h"
#include "kernels/int4.h"

namespace octavo {

#define OCTAVO_KERNEL(name) extern const Kernel kernel_##name;
#include "kernels/kernels.inc"
#undef OCTAVO_KERNEL

namespace {

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

void require_supported(const Kernel& kernel, const std::string& asked_by) {
  const std::vector<std::string> missing = missing_features(kernel);
  if (!missing.empty()) {
    throw std::invalid_argument(asked_by + ": kernel \"" + kernel.name + "\" needs " + joined(missing) +
                                ", which this CPU or its operating system does not offer");
  }
}

const Kernel& kernel_named(const std::string& name, const std::string& asked_by) {
  const Kernel* kernel = find_kernel(name);
  if (kernel == nullptr) {
    std::vector<std::string> names;
    for (const Kernel* k : all_kernels()) names.emplace_back(k->name);
    throw std::invalid_argument(asked_by + ": no kernel is named \"" + name + "\"; this build has " + joined(names));
  }
  require_supported(*kernel, asked_by);
  return *kernel;
}

// A kernel that runs here, and the fewest rows for which it is chosen where somebody has said so, else 0.
struct Candidate {
  explicit Candidate(const Kernel* k) : kernel(k) {}

  const Kernel* kernel;
  std::atomic<std::int64_t> min_rows = 0;
};

// Best first. A list, because its elements never move; never destroyed, because daemon threads may still multiply while
// the process exits.
std::list<Candidate>& candidates() {
  static std::list<Candidate>& list = *[] {
    auto* runnable = new std::list<Candidate>;
    for (const Kernel* kernel : all_kernels()) {
      if (missing_features(*kernel).empty()) runnable->emplace_back(kernel);
    }
    return runnable;
  }();
  return list;
}

// Parses "name=rows,name=rows". Every name must be of this build; kernels that do not run here are skipped.
void read_min_rows(const std::string& text) {
  const auto fault = [&](const std::string& what) {
    return std::invalid_argument("OCTAVO_MIN_ROWS: expected NAME=ROWS,... such as amxint8=8, got \"" + text +
                                 "\": " + what);
  };
  std::vector<std::pair<const Kernel*, std::int64_t>> read;  // all, before anything changes
  for (const std::string& entry : split(text, ',')) {
    const std::size_t equals = entry.find('=');
    if (equals == std::string::npos) throw fault("no = in \"" + entry + "\"");
    const std::string name = entry.substr(0, equals);
    const Kernel* kernel = find_kernel(name);
    if (kernel == nullptr) throw fault("no kernel is named \"" + name + "\"");
    std::int64_t rows = 0;
    const char *first = entry.data() + equals + 1, *last = entry.data() + entry.size();
    const auto [end, error] = std::from_chars(first, last, rows);
    if (error != std::errc{} || end != last || rows < 1) throw fault("ROWS must be a number from 1 on");
    read.emplace_back(kernel, rows);
  }
  for (const auto& [kernel, rows] : read) {
    for (Candidate& c : candidates()) {
      if (c.kernel == kernel) c.min_rows.store(rows, std::memory_order_relaxed);
    }
  }
}

void read_min_rows_of_environment() {
  if (const char* text = std::getenv("OCTAVO_MIN_ROWS"); text != nullptr) read_min_rows(text);
}

// The next kernel of the table after this one that runs here and can.
const Kernel& next_that(CanMultiply can, const Kernel& kernel) {
  bool passed = false;
  for (const Candidate& c : candidates()) {
    if (passed && can(*c.kernel)) return *c.kernel;
    passed = passed || c.kernel == &kernel;
  }
  return *candidates().back().kernel;
}

std::atomic<const Kernel*> g_forced{nullptr};
std::atomic<bool> g_environment_read{false};
Mutex g_environment_mutex;

// OCTAVO_ISA and OCTAVO_MIN_ROWS are read at the first use of a kernel rather than at import, so that `octavo info`
// works with a bad value too.
void read_environment() {
  if (g_environment_read.load(std::memory_order_acquire)) return;
  const Lock lock(g_environment_mutex);
  if (g_environment_read.load(std::memory_order_relaxed)) return;
  read_min_rows_of_environment();
  if (const char* name = std::getenv("OCTAVO_ISA"); name != nullptr && *name != '\0') {
    g_forced.store(&kernel_named(name, "OCTAVO_ISA"), std::memory_order_release);
  }
  g_environment_read.store(true, std::memory_order_release);
}

}  // namespace

const std::vector<const Kernel*>& all_kernels() {
  static const std::vector<const Kernel*>& kernels = *new std::vector<const Kernel*>{
  // never destroyed, as candidates
#define OCTAVO_KERNEL(name) &kernel_##name,
#include "kernels/kernels.inc"
#undef OCTAVO_KERNEL
  };
  return kernels;
}

std::vector<std::string> missing_features(const Kernel& kernel) {
  const std::uint32_t missing = kernel.features & ~cpu_features();
  std::vector<std::string> names;
  for (const FeatureName& f : known_features()) {
    if ((missing & f.feature) != 0) names.emplace_back(f.name);
  }
  return names;
}

const Kernel* find_kernel(const std::string& name) {
  for (const Kernel* kernel : all_kernels()) {
    if (name == kernel->name) return kernel;
  }
  return nullptr;
}

const Kernel& active_kernel() {
  const Kernel* forced = forced_kernel();
  return forced != nullptr ? *forced : *candidates().front().kernel;
}

const Kernel& kernel_for(std::int64_t rows, CanMultiply can, LeastRows least) {
  if (const Kernel* forced = forced_kernel(); forced != nullptr)
    return can(*forced) ? *forced : next_that(can, *forced);
  for (const Candidate& c : candidates()) {
    if (!can(*c.kernel)) continue;
    const std::int64_t chosen = c.min_rows.load(std::memory_order_relaxed);
    if (std::max<std::int64_t>(rows, 1) >= (chosen != 0 ? chosen : least(*c.kernel))) return *c.kernel;
  }
  return *candidates().back().kernel;  // the portable one takes what no other does
}

const FunctionKernel& functions_in_use() {
  constexpr std::int64_t kMany = std::int64_t{1} << 40;  // rows: the best kernel, whatever it asks for
  return *kernel_for(kMany, [](const Kernel& kernel) { return kernel.functions != nullptr; }).functions;
}

LeastRows least_rows_of(std::int64_t weight_bytes) {
  if (weight_bytes > kNearWeightBytes) return [](const Kernel& kernel) { return kernel.min_rows; };
  return [](const Kernel& kernel) { return kernel.min_rows_near != 0 ? kernel.min_rows_near : kernel.min_rows; };
}

std::optional<std::int64_t> chosen_min_rows(const Kernel& kernel) {
  read_environment();
  for (const Candidate& c : candidates()) {
    const std::int64_t rows = c.min_rows.load(std::memory_order_relaxed);
    if (c.kernel == &kernel && rows != 0) return rows;
  }
  return std::nullopt;
}

MinRows min_rows(const Kernel& kernel) {
  const std::optional<std::int64_t> chosen = chosen_min_rows(kernel);
  MinRows rows{.int8 = chosen.value_or(kernel.min_rows), .int8_near = chosen.value_or(least_rows_of(0)(kernel))};
  if (kernel.int4 != nullptr) rows.int4 = chosen.value_or(kernel.int4->min_rows);
  if (kernel.grouped != nullptr) rows.grouped = chosen.value_or(kernel.grouped->min_rows);
  return rows;
}

void set_min_rows(const Kernel& kernel, std::optional<std::int64_t> rows) {
  require_supported(kernel, "set_min_rows");
  if (rows && *rows < 1) {
    throw std::invalid_argument("set_min_rows: rows must be at least 1, got " + std::to_string(*rows));
  }
  read_environment();
  for (Candidate& c : candidates()) {
    if (c.kernel == &kernel) c.min_rows.store(rows.value_or(0), std::memory_order_relaxed);
  }
}

void force_kernel(const Kernel* kernel) {
  if (kernel != nullptr) require_supported(*kernel, "use_kernel");
  const Lock lock(g_environment_mutex);
  if (!g_environment_read.load(std::memory_order_relaxed)) read_min_rows_of_environment();
  g_forced.store(kernel, std::memory_order_release);
  g_environment_read.store(true, std::memory_order_release);  // a choice in code outranks OCTAVO_ISA
}

const Kernel* forced_kernel() {
  read_environment();
  return g_forced.load(std::memory_order_acquire);
}

PanelShape panel_shape() {
  static const PanelShape shape = [] {
    for (const Kernel* kernel : all_kernels()) {
      if (kernel->nr != 0) return PanelShape{kernel->nr, kernel->kr};
    }
    return PanelShape{16, 4};
  }();
  return shape;
}

std::int64_t k_block_of(const Kernel& kernel) {
  const std::int64_t bytes_per_k = kernel.panels * panel_shape().nr + kernel.mr * kernel.lhs_elem_bytes;
  return std::max<std::int64_t>(64, static_cast<std::int64_t>(cache_sizes().l1d_bytes) * 3 / 4 / bytes_per_k);
}

}  // namespace octavo
