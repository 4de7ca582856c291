#include "base/arch.h"

#include <cerrno>
#include <cfenv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>


#if defined(__x86_64__) || defined(_M_X64)
#define OCTAVO_ARCH_X86 1
#include <cpuid.h>
#include <immintrin.h>
#if defined(__linux__)
#include <sys/syscall.h>
#endif
#elif defined(__aarch64__) || defined(_M_ARM64)
#define OCTAVO_ARCH_ARM64 1
#if defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(_WIN32)
#define NOMINMAX
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#endif
#endif

#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace octavo {
namespace {

struct Detected {
  std::uint32_t features = 0;
  std::string refusal;  // see feature_refusal()
};

#if defined(OCTAVO_ARCH_X86)

constexpr FeatureName kFeatures[] = {
    {kFeatureAvx2, "avx2"},
    {kFeatureAvxVnni, "avx_vnni"},
    {kFeatureAvx512Vnni, "avx512_vnni"},
    {kFeatureAmxInt8, "amx_int8"},
};

struct Cpuid {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Cpuid cpuid(unsigned leaf, unsigned subleaf = 0) {
  Cpuid r;
  const unsigned highest = static_cast<unsigned>(__get_cpuid_max(leaf & 0x80000000u, nullptr));
  if (leaf <= highest) {
    __cpuid_count(leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx);
  }
  return r;
}

bool bit(unsigned word, int n) { return ((word >> n) & 1u) != 0; }

// XGETBV as assembly: the intrinsic would need a target flag on this portable file.
std::uint64_t xcr0() {
  unsigned lo = 0, hi = 0;
  __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  return (static_cast<std::uint64_t>(hi) << 32) | lo;
}

// Linux gives a process tile registers only when it asks. Only the call's return value tells: a filter may refuse, or a
// signal stack may be too small for the larger state.
std::string ask_for_tiles() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0) return "";
  return std::string("the operating system refused the tile registers: ") + std::strerror(errno);
#else
  return "tile registers are used on Linux alone";
#endif
}

// What CPUID and XGETBV say.
struct CpuState {
  Cpuid leaf_1, leaf_7, leaf_7_1;
  std::uint64_t saved;  // XCR0: what the system saves at a context switch
};

Detected decide(const CpuState& cpu) {
  const auto saves = [&](std::uint64_t mask) { return (cpu.saved & mask) == mask; };
  const Cpuid& l7 = cpu.leaf_7;
  Detected d;
  // The compiler's flags for AVX512 permit AVX2, FMA and F16C as well, so every feature here requires them.
  const bool fma_f16c = bit(cpu.leaf_1.ecx, 12) && bit(cpu.leaf_1.ecx, 29);
  const bool avx2 = saves(0x6) && bit(cpu.leaf_1.ecx, 28) && bit(l7.ebx, 5) && fma_f16c;
  if (avx2) {
    d.features |= kFeatureAvx2;
    if (bit(cpu.leaf_7_1.eax, 4)) d.features |= kFeatureAvxVnni;
  }
  const bool avx512_f_dq_bw_vl = bit(l7.ebx, 16) && bit(l7.ebx, 17) && bit(l7.ebx, 30) && bit(l7.ebx, 31);
  if (avx2 && saves(0xe6) && avx512_f_dq_bw_vl && bit(l7.ecx, 11)) d.features |= kFeatureAvx512Vnni;
  if (bit(l7.edx, 24) && bit(l7.edx, 25)) {
    d.refusal = saves(0x60000) ? ask_for_tiles() : "the operating system does not save the tile registers";
    if (d.refusal.empty()) d.features |= kFeatureAmxInt8;
  }
  return d;
}

Detected detect() {
  const Cpuid leaf_1 = cpuid(1);
  if (!bit(leaf_1.ecx, 27)) return {};  // OSXSAVE: without it the system saves no vector state beyond SSE
  return decide({leaf_1, cpuid(7), cpuid(7, 1), xcr0()});
}

std::string detect_brand() {
  char text[49] = {};
  if (cpuid(0x80000000u).eax < 0x80000004u) return "unknown x86-64 CPU";
  for (unsigned i = 0; i < 3; ++i) {
    const Cpuid r = cpuid(0x80000002u + i);
    std::memcpy(text + 16 * i, &r, 16);
  }
  std::string brand(text);
  const auto first = brand.find_first_not_of(' '), last = brand.find_last_not_of(' ');
  return first == std::string::npos ? "unknown x86-64 CPU" : brand.substr(first, last - first + 1);
}

std::uint64_t enter_float_environment() {
  const unsigned saved = _mm_getcsr();
  _mm_setcsr(0x1f80);
  return saved;
}
void leave_float_environment(std::uint64_t saved) { _mm_setcsr(static_cast<unsigned>(saved)); }
void relax_core() { _mm_pause(); }

#elif defined(OCTAVO_ARCH_ARM64)

constexpr FeatureName kFeatures[] = {
    {kFeatureNeon, "neon"},
    {kFeatureDotprod, "dotprod"},
    {kFeatureI8mm, "i8mm"},
};

Detected detect() {
  std::uint32_t f = kFeatureNeon;  // part of every AArch64 CPU
#if defined(__linux__)
  if ((getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0) f |= kFeatureDotprod;
#if defined(HWCAP2_I8MM)
  if ((getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0) f |= kFeatureI8mm;
#endif
#elif defined(__APPLE__)
  const auto has = [](const char* name) {
    int value = 0;
    std::size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
  };
  if (has("hw.optional.arm.FEAT_DotProd")) f |= kFeatureDotprod;
  if (has("hw.optional.arm.FEAT_I8MM")) f |= kFeatureI8mm;
#elif defined(_WIN32)
  // Numbers of winnt.h, which older SDKs do not name: PF_ARM_V82_DP_..., PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE.
  constexpr DWORD kDotprodAvailable = 43, kI8mmAvailable = 66;
  if (IsProcessorFeaturePresent(kDotprodAvailable)) f |= kFeatureDotprod;
  if (IsProcessorFeaturePresent(kI8mmAvailable)) f |= kFeatureI8mm;
#endif
  return {f, ""};
}

std::string detect_brand() { return "AArch64 CPU"; }

std::uint64_t enter_float_environment() {
  std::uint64_t saved = 0;
  __asm__ volatile("mrs %0, fpcr" : "=r"(saved));
  __asm__ volatile("msr fpcr, %0" : : "r"(std::uint64_t{0}));
  return saved;
}
void leave_float_environment(std::uint64_t saved) { __asm__ volatile("msr fpcr, %0" : : "r"(saved)); }
void relax_core() { __asm__ volatile("isb"); }  // `yield` takes no time at all on most cores

#elif defined(__wasm__)

constexpr FeatureName kFeatures[] = {
    {kFeatureSimd128, "simd128"},
    {kFeatureRelaxedSimd, "relaxed_simd"},
};

// An engine loads a module only where it has all of its instructions, so what was compiled is there.
Detected detect() {
#if defined(OCTAVO_WASM_RELAXED)
  return {kFeatureSimd128 | kFeatureRelaxedSimd, ""};
#else
  return {kFeatureSimd128, ""};
#endif
}
std::string detect_brand() { return "WebAssembly"; }
std::uint64_t enter_float_environment() { return 0; }
void leave_float_environment(std::uint64_t) {}
void relax_core() {}

#else  // any other architecture: the portable kernel alone

constexpr FeatureName kFeatures[] = {{kFeatureNeon, "neon"}};
Detected detect() { return {}; }
std::string detect_brand() { return "unknown CPU"; }
std::uint64_t enter_float_environment() {  // of what may differ, standard C++ knows the rounding mode alone
  const int saved = std::fegetround();
  std::fesetround(FE_TONEAREST);
  return static_cast<std::uint64_t>(saved);
}
void leave_float_environment(std::uint64_t saved) { std::fesetround(static_cast<int>(saved)); }
void relax_core() {}

#endif

const Detected& detected() {
  static const Detected& once = *new Detected(detect());  // never destroyed: threads may run while the process exits
  return once;
}

}  // namespace

FeatureList known_features() { return {kFeatures, sizeof kFeatures / sizeof kFeatures[0]}; }

std::uint32_t cpu_features() { return detected().features; }

const std::string& feature_refusal() { return detected().refusal; }

std::string cpu_brand() { return detect_brand(); }

void pause_briefly() { relax_core(); }

DefaultFloatEnvironment::DefaultFloatEnvironment() : saved_(enter_float_environment()) {}
DefaultFloatEnvironment::~DefaultFloatEnvironment() { leave_float_environment(saved_); }

}  // namespace octavo
