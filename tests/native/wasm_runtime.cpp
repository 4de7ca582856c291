// What compilers for WASI leave out: exceptions, which end a native test here, and ends of threads, of which there are
// none.
#include <cstddef>
#include <cstdio>
#include <cstdlib>

extern "C" {

int __cxa_atexit(void (*function)(void*), void* object, void* library);

int __cxa_thread_atexit(void (*function)(void*), void* object, void* library) {
  return __cxa_atexit(function, object, library);
}

void* __cxa_allocate_exception(std::size_t bytes) { return std::malloc(bytes); }

[[noreturn]] void __cxa_throw(void*, void*, void (*)(void*)) {
  std::printf("FAILED: an exception, which this build cannot catch\n");
  std::abort();
}

}  // extern "C"
