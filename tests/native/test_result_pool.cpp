// The pool of large results without Python, whose lock would keep these threads apart: many takers at once, and forks
// in the middle of it.
#include <atomic>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "base/result_pool.h"
#include "base/thread_pool.h"
#include "base/threads.h"
#include "check.h"
#include "system.h"

#if defined(OCTAVO_CAN_FORK)
#include <sys/wait.h>
#include <unistd.h>
#endif

namespace octavo::test {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

// Takes blocks, writes its mark all over them, and looks whether it is still there when they go back.
bool churn(unsigned char mark, int times) {
  bool ok = true;
  std::vector<ResultBlock> held;
  for (int i = 0; i < times; ++i) {
    ResultBlock block = take_result_block(kSmallestPooledBytes + static_cast<std::size_t>(i % 3) * kMiB / 8);
    std::memset(block->as<void>(), mark, kSmallestPooledBytes);
    held.push_back(std::move(block));
    if (held.size() == 3) {
      const auto* bytes = held.front()->as<const unsigned char>();
      for (std::size_t at = 0; at < kSmallestPooledBytes; at += 4096) ok = ok && bytes[at] == mark;
      held.erase(held.begin());
    }
  }
  return ok;
}

void check_takers_at_once() {
  std::vector<std::thread> takers;
  std::atomic<bool> ok{true};
  for (int t = 0; t < 8; ++t) {
    takers.emplace_back([&, t] {
      if (!churn(static_cast<unsigned char>(t), 200)) ok = false;
    });
  }
  for (int i = 0; i < 50; ++i) {
    set_result_pool_bytes((1 + static_cast<std::size_t>(i) % 4) * kMiB);
    if (i % 8 == 0) clear_result_pool();
  }
  for (std::thread& t : takers) t.join();
  check(ok, "eight takers at once");
  set_result_pool_bytes(2 * kMiB);
  check(result_pool_state().idle_bytes <= 2 * kMiB, "the limit after eight takers");
}

#if !defined(OCTAVO_CAN_FORK)
void check_fork() { std::printf("fork: this system has none\n"); }
void check_fork_beside_loops() {}
#elif !defined(OCTAVO_UNDER_TSAN)  // which does not follow threads started in the child of a threaded process
void check_fork() {
  set_result_pool_bytes(8 * kMiB);
  std::atomic<bool> stop{false};
  std::thread other([&] {
    while (!stop) set_result_pool_bytes(8 * kMiB);  // holds the pool's lock about half of the time
  });
  bool ok = true;
  for (int repeat = 0; repeat < 100; ++repeat) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(2);  // a lock that nobody will open ends the child, and the check fails
      const bool good = churn(2, 5);
      clear_result_pool();
      _exit(good && result_pool_state().idle_blocks == 0 ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    ok = ok && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (!ok) break;
  }
  stop = true;
  other.join();
  check(ok, "forks while another thread is in the pool");
}

// A fork waits for a loop to end, whose bodies wait for the pool's lock: it must not hold that lock meanwhile.
void check_fork_beside_loops() {
  set_num_threads(2);
  parallel_for(2, [](std::int64_t) {});
  std::atomic<bool> stop{false};
  std::thread other([&] {
    while (!stop) parallel_for(8, [](std::int64_t i) { churn(static_cast<unsigned char>(i), 2); });
  });
  alarm(60);
  for (int repeat = 0; repeat < 200; ++repeat) {
    const pid_t child = fork();
    if (child == 0) _exit(0);
    waitpid(child, nullptr, 0);
  }
  alarm(0);
  stop = true;
  other.join();
  check(true, "forks while the bodies of a loop take blocks");  // or the alarm has ended this program
}
#else
void check_fork_beside_loops() {}
void check_fork() { std::printf("fork: not run under ThreadSanitizer\n"); }
#endif

}  // namespace
}  // namespace octavo::test

int main(int argc, char** argv) {
  using namespace octavo::test;
  if (may_fork(argc, argv)) {
    check_fork_beside_loops();  // first, as a program may use loops before it uses the pool
    check_fork();
  }
  check_takers_at_once();
  return finish();
}
