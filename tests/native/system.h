// What the native tests ask of the operating system, on each of them.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>

#if defined(_WIN32)
#include <io.h>
#else
#include <unistd.h>
#endif

namespace octavo::test {

inline void set_environment(const char* name, const char* value) {
#if defined(_WIN32)
  _putenv_s(name, value);
#else
  setenv(name, value, 1);
#endif
}

// Whether a program's arguments let it fork. --no-fork is for emulators that do not survive the fork of a process with
// threads (QEMU's user mode does not).
inline bool may_fork(int argc, char** argv) {
  const bool forks = argc < 2 || std::string(argv[1]) != "--no-fork";
  if (!forks) std::printf("fork: not run, as asked by --no-fork\n");
  return forks;
}

// What `call` prints on stderr.
template <class Call>
std::string stderr_of(const Call& call) {
#if defined(_WIN32)
  const auto duplicate = _dup;
  const auto replace = _dup2;
  const auto close_number = _close;
  const auto number_of = _fileno;
#else
  const auto duplicate = dup;
  const auto replace = dup2;
  const auto close_number = close;
  const auto number_of = fileno;
#endif
  std::FILE* file = std::tmpfile();
  if (file == nullptr) return "no temporary file";
  std::fflush(stderr);
  const int kept = duplicate(number_of(stderr));
  replace(number_of(file), number_of(stderr));
  call();
  std::fflush(stderr);
  replace(kept, number_of(stderr));
  close_number(kept);
  std::rewind(file);
  char text[256] = {};
  const std::size_t size = std::fread(text, 1, sizeof text - 1, file);
  std::fclose(file);
  return std::string(text, size);
}

}  // namespace octavo::test
