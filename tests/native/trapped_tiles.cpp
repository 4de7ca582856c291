// Lets the kernel amxint8 itself, the machine code that ships, run on a CPU without tiles. Such a CPU raises an
// invalid-opcode exception for every tile instruction. The handler here decodes the instruction, has the model
// (amx_model.h) carry it out, and continues after it. So what the compiler made of the kernel is tested, and not only
// its source: the registers and addresses of the instructions, and what is in memory when they run.
//
// Linked into a program or a module, this installs the handler and adds AMX to the CPU's features. The vector
// instructions around the tiles need a CPU with AVX512-VNNI. On a CPU with tiles nothing is trapped.
//
// Encodings are from Intel's SDM, volume 2. Every tile instruction is VEX.128.W0 in the opcode map 0F38:
//
//   49 /0 memory    LDTILECFG (no prefix), STTILECFG (66)         49 C0   TILERELEASE
//   49 11rrr000 F2  TILEZERO
//   4B memory       TILELOADD (F2), TILELOADDT1 (66), TILESTORED (F3): base + displacement, rows index << scale apart
//   5E registers    TDPBSSD (F2), TDPBSUD (F3)
#include <signal.h>
#include <ucontext.h>

#include "amx_model.h"

// All of arch.cpp, in the place of the library's own, with one function more on top.
#define cpu_features features_of_this_cpu
#include "../../csrc/base/arch.cpp"
#undef cpu_features

namespace octavo {

std::uint32_t cpu_features();
std::uint32_t cpu_features() { return features_of_this_cpu() | kFeatureAmxInt8; }

namespace {

// Prefixes that VEX has room for.
enum Prefix { kNone, k66, kF3, kF2 };

// The general registers of a stopped thread, by their numbers in instructions.
class Registers {
 public:
  explicit Registers(const ucontext_t& stopped) : values_(stopped.uc_mcontext.gregs) {}
  std::int64_t operator[](int number) const {
    constexpr int kPlaces[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                               REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    return values_[kPlaces[number]];
  }

 private:
  const greg_t* values_;
};

struct TileInstruction {
  Prefix prefix;
  int opcode, reg, vvvv, rm;
  bool in_memory;
  std::int64_t address = 0, stride = 0;
  int size = 0;  // bytes
};

// The instruction at `code`, if it may be one of the tiles'.
bool decode(const std::uint8_t* code, const Registers& registers, TileInstruction& out) {
  if (code[0] != 0xc4 || (code[1] & 0x1f) != 2) return false;  // VEX of three bytes, map 0F38
  if ((code[2] & 0x84) != 0) return false;                     // W0, 128 bits
  const int more_index = (code[1] & 0x40) != 0 ? 0 : 8, more_base = (code[1] & 0x20) != 0 ? 0 : 8;
  const std::uint8_t mod_rm = code[4];
  const int mod = mod_rm >> 6;
  out = {.prefix = static_cast<Prefix>(code[2] & 3),
         .opcode = code[3],
         .reg = mod_rm >> 3 & 7,
         .vvvv = ~code[2] >> 3 & 15,
         .rm = mod_rm & 7,
         .in_memory = mod != 3};
  if (out.opcode != 0x49 && out.opcode != 0x4b && out.opcode != 0x5e) return false;
  const std::uint8_t* next = code + 5;
  if (out.in_memory) {
    bool from_next = false;
    int displacement_bytes = mod == 1 ? 1 : mod == 2 ? 4 : 0;
    if (out.rm == 4) {
      const std::uint8_t sib = *next++;
      const int index = (sib >> 3 & 7) + more_index, base = sib & 7;
      if (index != 4) out.stride = registers[index] << (sib >> 6);
      if (mod == 0 && base == 5) {
        displacement_bytes = 4;
      } else {
        out.address = registers[base + more_base];
      }
    } else if (mod == 0 && out.rm == 5) {
      displacement_bytes = 4;
      from_next = true;
    } else {
      out.address = registers[out.rm + more_base];
    }
    if (displacement_bytes == 1) out.address += static_cast<std::int8_t>(*next);
    if (displacement_bytes == 4) {
      std::int32_t displacement = 0;
      std::memcpy(&displacement, next, sizeof displacement);
      out.address += displacement;
    }
    next += displacement_bytes;
    if (from_next) out.address += reinterpret_cast<std::int64_t>(next);
    if (out.opcode == 0x49) out.address += out.stride;  // an index like any other
  }
  out.size = static_cast<int>(next - code);
  return true;
}

// Does what the instruction does. False where it is none of those that the kernels have.
bool perform(const TileInstruction& of) {
  void* const memory = reinterpret_cast<void*>(of.address);
  switch (of.opcode) {
    case 0x49:
      if (of.in_memory && of.prefix == kNone) {
        tile_configure(*static_cast<const TileConfig*>(memory));
      } else if (of.in_memory && of.prefix == k66) {
        tile_read_config(*static_cast<TileConfig*>(memory));
      } else if (!of.in_memory && of.prefix == kNone) {
        tile_release();
      } else if (!of.in_memory && of.prefix == kF2) {
        model_zero(of.reg);
      } else {
        return false;
      }
      return true;
    case 0x4b:
      if (!of.in_memory || of.rm != 4 || of.prefix == kNone) return false;
      if (of.prefix == kF3) {
        model_store(of.reg, memory, of.stride);
      } else {
        model_load(of.reg, memory, of.stride);
      }
      return true;
    default:
      if (of.in_memory || (of.prefix != kF2 && of.prefix != kF3)) return false;
      if (of.prefix == kF2) {
        model_dot<std::int8_t>(of.reg, of.rm, of.vvvv);
      } else {
        model_dot<std::uint8_t>(of.reg, of.rm, of.vvvv);
      }
      return true;
  }
}

struct sigaction g_before;  // what other invalid instructions are left to

void on_invalid_instruction(int signal, siginfo_t* info, void* context) {
  auto& stopped = *static_cast<ucontext_t*>(context);
  greg_t& at = stopped.uc_mcontext.gregs[REG_RIP];
  TileInstruction instruction{};
  if (decode(reinterpret_cast<const std::uint8_t*>(at), Registers(stopped), instruction) && perform(instruction)) {
    at += instruction.size;
  } else if ((g_before.sa_flags & SA_SIGINFO) != 0) {
    g_before.sa_sigaction(signal, info, context);
  } else if (g_before.sa_handler != SIG_DFL && g_before.sa_handler != SIG_IGN) {
    g_before.sa_handler(signal);
  } else {
    sigaction(SIGILL, &g_before, nullptr);  // it runs again, and ends the program
  }
}

[[gnu::constructor]] void install() {
  struct sigaction action {};
  action.sa_sigaction = on_invalid_instruction;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGILL, &action, &g_before);
}

}  // namespace
}  // namespace octavo
