#include "gemm/registry.h"

#include <atomic>
#include <cstdlib>
#include <mutex>
#include <stdexcept>

#include "base/arch.h"

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

const Kernel& best_kernel() {
  for (const Kernel* kernel : all_kernels()) {
    if (missing_features(*kernel).empty()) return *kernel;
  }
  throw std::logic_error("the portable kernel is missing from kernels.inc");
}

std::atomic<const Kernel*> g_forced{nullptr};
std::atomic<bool> g_environment_read{false};
std::mutex g_environment_mutex;

// OCTAVO_ISA is read at the first use of a kernel, not at import: a bad value must leave `octavo info` usable.
void read_environment() {
  if (g_environment_read.load(std::memory_order_acquire)) return;
  const std::lock_guard<std::mutex> lock(g_environment_mutex);
  if (g_environment_read.load(std::memory_order_relaxed)) return;
  if (const char* name = std::getenv("OCTAVO_ISA"); name != nullptr && *name != '\0') {
    g_forced.store(&kernel_named(name, "OCTAVO_ISA"), std::memory_order_release);
  }
  g_environment_read.store(true, std::memory_order_release);
}

}  // namespace

const std::vector<const Kernel*>& all_kernels() {
  static const std::vector<const Kernel*> kernels = {
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
  static const Kernel& best = best_kernel();
  const Kernel* forced = forced_kernel();
  return forced != nullptr ? *forced : best;
}

void force_kernel(const Kernel* kernel) {
  if (kernel != nullptr) require_supported(*kernel, "use_kernel");
  const std::lock_guard<std::mutex> lock(g_environment_mutex);
  g_forced.store(kernel, std::memory_order_release);
  g_environment_read.store(true, std::memory_order_release);  // a choice in code outranks the environment
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

}  // namespace octavo
