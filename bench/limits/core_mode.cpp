// The probe of core_mode.h for Python: compare_peers.py compiles it to a shared library.
#include "core_mode.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

// Whether this process may use tiles on this CPU. Asks the operating system.
extern "C" int octavo_bench_has_tiles() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c & (1u << 27)) == 0) return 0;
  unsigned low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & 0x60000) != 0x60000 || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
  if ((d & (1u << 24)) == 0 || (d & (1u << 25)) == 0) return 0;
#if defined(SYS_arch_prctl)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0 ? 1 : 0;
#else
  return 0;
#endif
}

extern "C" int octavo_bench_is_slow() { return amx::is_slow() ? 1 : 0; }
