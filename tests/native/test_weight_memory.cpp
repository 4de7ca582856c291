// Memory for packed weights: neighbours, what is freed, many threads, forks.
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/pages.h"
#include "base/threads.h"
#include "base/weight_memory.h"
#include "check.h"
#include "system.h"

#if defined(OCTAVO_CAN_FORK)
#include <sys/wait.h>
#include <unistd.h>
#endif

namespace octavo::test {
namespace {

constexpr std::size_t kKiB = 1 << 10, kMiB = 1 << 20;

bool all_are(const std::byte* data, std::size_t bytes, std::byte value) {
  for (std::size_t i = 0; i < bytes; ++i) {
    if (data[i] != value) return false;
  }
  return true;
}

void check_contents() {
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, 64 * kKiB - 1, 64 * kKiB, 64 * kKiB + 1, 300 * kKiB,
                                  2 * kMiB, 5 * kMiB + 1, 70 * kMiB}) {
    const std::string what = std::to_string(bytes) + " bytes";
    for (int time = 0; time < 3; ++time) {  // what was freed may come back
      WeightMemory memory(bytes);
      check(bytes == 0 || reinterpret_cast<std::uintptr_t>(memory.data()) % AlignedBuffer::kAlignment == 0,
            what + ": alignment");
      check(all_are(memory.data(), bytes, std::byte{0}), what + ": zeros");
      if (bytes != 0) std::memset(memory.data(), 1, bytes);
      WeightMemory moved(std::move(memory));
      check(memory.data() == nullptr && all_are(moved.data(), bytes, std::byte{1}), what + ": moved");
      memory = std::move(moved);
      check(moved.data() == nullptr && all_are(memory.data(), bytes, std::byte{1}), what + ": moved back");
    }
  }
}

#if defined(OCTAVO_OWN_PAGES)

// Of a process, in bytes.
std::size_t resident_bytes() {
  long pages = 0;
  std::FILE* const file = std::fopen("/proc/self/statm", "r");
  if (file == nullptr || std::fscanf(file, "%*d %ld", &pages) != 1) pages = 0;
  if (file != nullptr) std::fclose(file);
  return static_cast<std::size_t>(pages) * whole_pages(1);
}

void check_neighbours() {
  std::vector<WeightMemory> blocks;
  for (int i = 0; i < 64; ++i) blocks.emplace_back(256 * kKiB);
  int beside = 0;
  for (std::size_t i = 1; i < blocks.size(); ++i) beside += blocks[i].data() == blocks[i - 1].data() + 256 * kKiB;
  check(beside >= 58, "blocks lie one after the other, but for those that begin a region");
}

void check_freed() {
  constexpr int kBlocks = 200;
  const std::size_t before = resident_bytes();
  std::vector<WeightMemory> blocks;
  for (int i = 0; i < kBlocks; ++i) {
    blocks.emplace_back(256 * kKiB);
    std::memset(blocks.back().data(), i, 256 * kKiB);
  }
  const std::size_t filled = resident_bytes();
  for (std::size_t i = 0; i < kBlocks; i += 2) blocks[i] = WeightMemory();
  const std::size_t half = resident_bytes();
  bool kept = true;
  for (std::size_t i = 1; i < kBlocks; i += 2) {
    kept = kept && all_are(blocks[i].data(), 256 * kKiB, static_cast<std::byte>(i));
  }
  check(kept, "what the blocks hold whose neighbours were freed");
  blocks.clear();
  const std::size_t after = resident_bytes();
#if defined(OCTAVO_UNDER_TSAN)
  return std::printf("resident: with ThreadSanitizer's shadow of it\n"), void();
#endif
  if (before == 0) return std::printf("resident: not known here\n"), void();
  check(filled - before >= 48 * kMiB && filled - before <= 56 * kMiB, "50 MiB in use");
  check(filled - half >= 24 * kMiB, "half of it freed");
  check(after <= before + 4 * kMiB, "all of it freed");
}

void check_locked() {
  // Locked pages cannot be taken away, but they can be unmapped with what they hold.
  WeightMemory memory(128 * kKiB);
  std::memset(memory.data(), 1, 128 * kKiB);
  if (mlock(memory.data(), 128 * kKiB) != 0) return std::printf("locked pages: not allowed here\n"), void();
  memory = WeightMemory();
  check(all_are(WeightMemory(128 * kKiB).data(), 128 * kKiB, std::byte{0}), "zeros after locked pages");
}

#else

void check_neighbours() { std::printf("neighbours: the usual allocator's\n"); }
void check_freed() {}
void check_locked() {}

#endif

// Makes and frees blocks, and looks whether each still holds its mark when it goes.
bool churn(std::byte mark, int times) {
  bool ok = true;
  std::vector<WeightMemory> held;
  for (int i = 0; i < times; ++i) {
    const std::size_t bytes = (64 + 40 * static_cast<std::size_t>(i % 5)) * kKiB;
    held.emplace_back(bytes);
    ok = ok && all_are(held.back().data(), bytes, std::byte{0});
    std::memset(held.back().data(), static_cast<int>(mark), bytes);
    if (held.size() == 4) {
      ok = ok && all_are(held[1].data(), 64 * kKiB, mark);
      held.erase(held.begin() + 1);
    }
  }
  return ok;
}

void check_threads() {
  std::atomic<bool> ok{true};
  std::vector<std::thread> threads;
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&, t] {
      if (!churn(static_cast<std::byte>(t + 1), 300)) ok = false;
    });
  }
  for (std::thread& thread : threads) thread.join();
  check(ok, "six threads at once");
}

#if !defined(OCTAVO_CAN_FORK) || !defined(OCTAVO_OWN_PAGES)
void check_fork() { std::printf("fork: this system has none, or the usual allocator serves all\n"); }
#elif !defined(OCTAVO_UNDER_TSAN)
void check_fork() {
  std::atomic<bool> stop{false};
  std::thread other([&] {
    while (!stop) WeightMemory(64 * kKiB);
  });
  bool ok = true;
  for (int repeat = 0; repeat < 100 && ok; ++repeat) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(2);  // a lock that nobody will open ends the child, and the check fails
      _exit(churn(std::byte{2}, 5) ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    ok = WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }
  stop = true;
  other.join();
  check(ok, "forks while another thread makes blocks");
}
#else
void check_fork() { std::printf("fork: not run under ThreadSanitizer\n"); }
#endif

}  // namespace
}  // namespace octavo::test

int main(int argc, char** argv) {
  using namespace octavo::test;
  check_contents();
  check_neighbours();
  check_freed();
  check_locked();
  check_threads();
  if (may_fork(argc, argv)) check_fork();
  return finish();
}
