// AMX needs the operating system's permission: what happens when it refuses, and that its answer is all that counts.
//
// A seccomp filter answers for the kernel, so that each case can be provoked on any x86-64 Linux; CPUs without AMX are
// given its bits in a copy of what CPUID says. A filter stays for good, hence a process for each case.
#include "../../csrc/base/arch.cpp"
//
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <cstddef>

#include "check.h"
#include "gemm/registry.h"

namespace octavo::test {
namespace {

constexpr std::uint32_t kTileBits = 0x60000;

// From here on arch_prctl(ARCH_REQ_XCOMP_PERM, ...) is answered with `error`, or success where that is 0.
bool answer_requests_with(int error) {
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_arch_prctl, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x1023, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(error)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program{static_cast<unsigned short>(std::size(code)), code};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

CpuState with_amx() {
  CpuState cpu{cpuid(1), cpuid(7), cpuid(7, 1), kTileBits | 0xe7};
  cpu.leaf_7.edx |= 1u << 24 | 1u << 25;
  return cpu;
}

void check_refused() {
  check(answer_requests_with(EPERM), "a filter that refuses");
  const Detected d = decide(with_amx());
  check((d.features & kFeatureAmxInt8) == 0, "refused: no feature");
  check(d.refusal == "the operating system refused the tile registers: Operation not permitted", d.refusal);
  // The whole way, on a CPU that has AMX: the next kernel is chosen, and forcing says what is missing.
  check(active_kernel().name != std::string("amxint8"), "refused: another kernel");
  const Cpuid l7 = cpuid(7);
  check(feature_refusal().empty() != (bit(l7.edx, 24) && bit(l7.edx, 25)), "refused: said where the CPU has AMX");
  std::string message;
  try {
    force_kernel(find_kernel("amxint8"));
  } catch (const std::invalid_argument& error) {
    message = error.what();
  }
  const std::size_t needs = message.find(" needs ");  // amx_int8, and what else this CPU lacks
  check(needs != std::string::npos && message.find("amx_int8", needs) != std::string::npos,
        "refused: forcing names the feature, got " + message);
}

void check_granted() {
  check(answer_requests_with(0), "a filter that grants");
  const Detected d = decide(with_amx());
  check((d.features & kFeatureAmxInt8) != 0 && d.refusal.empty(), "granted");
}

void check_not_saved() {
  check(answer_requests_with(0), "a filter that grants");
  CpuState cpu = with_amx();
  cpu.saved = 0x207e7;  // the configuration, but not the tiles
  const Detected d = decide(cpu);
  check((d.features & kFeatureAmxInt8) == 0, "not saved: no feature");
  check(d.refusal == "the operating system does not save the tile registers", d.refusal);
  check(d.features == (decide({cpu.leaf_1, cpuid(7), cpu.leaf_7_1, 0xe7}).features & ~std::uint32_t{kFeatureAmxInt8}),
        "not saved: other features stay");
}

void check_not_there() {
  CpuState cpu = with_amx();
  cpu.leaf_7.edx &= ~(1u << 25);  // AMX without int8
  const Detected d = decide(cpu);
  check((d.features & kFeatureAmxInt8) == 0 && d.refusal.empty(), "no AMX-INT8: nothing to refuse");
}

void check_avx_vnni() {
  CpuState cpu = with_amx();
  cpu.leaf_1.ecx |= 1u << 28;
  cpu.leaf_7.ebx |= 1u << 5;
  cpu.leaf_7_1.eax |= 1u << 4;
  cpu.saved = 0x7;
  const std::uint32_t features = decide(cpu).features;
  check((features & kFeatureAvxVnni) != 0 && (features & kFeatureAvx512Vnni) == 0, "AVX-VNNI without AVX512");
  cpu.saved = 0x3;  // no upper halves of the vector registers
  check(decide(cpu).features == 0, "AVX not saved: nothing");
}

void in_a_process(const char* name, void (*checks)()) {
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    failed = 0;
    checks();
    std::fflush(stdout);
    _exit(failed == 0 ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  check(status == 0, std::string(name) + ": the checks in its process");
}

}  // namespace
}  // namespace octavo::test

int main() {
  using namespace octavo::test;
  in_a_process("refused", check_refused);
  in_a_process("granted", check_granted);
  in_a_process("not saved", check_not_saved);
  in_a_process("not there", check_not_there);
  in_a_process("AVX-VNNI", check_avx_vnni);
  return finish();
}
