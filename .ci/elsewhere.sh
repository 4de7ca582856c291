# Sourced after common.sh by .ci/run and .ci/nightly: the library and its native tests for other systems.

# What runs in every place: kernels of each kind, the bits recorded on x86-64, threads.
portable_tests=(test_digest test_fixture test_kernels test_grouped test_int4 test_integers test_recurrent test_fake_quant)
threaded_tests=(test_cpus test_registry test_thread_pool test_result_pool test_weight_memory)

# zig TARGET: a C++ compiler with the system's own headers and libraries, as CMake options in the array `compiler`.
zig() {
  local target=$1 tool
  mkdir -p "$work/zig-$target"
  for tool in ar ranlib; do
    printf '#!/bin/sh\nexec python -m ziglang %s "$@"\n' "$tool" >"$work/zig-$target/$tool"
  done
  cat >"$work/zig-$target/c++" <<EOF
#!/bin/sh
for word; do  # zig has its own names for what other compilers call -march=armv8.2-a+dotprod
  shift
  case \$word in -march=armv8*) word=-mcpu=generic\${word#-march=armv8*-a} ;; esac
  set -- "\$@" "\$word"
done
exec python -m ziglang c++ -target $target "\$@"
EOF
  chmod +x "$work/zig-$target"/*
  compiler=(-DCMAKE_CXX_COMPILER="$work/zig-$target/c++" -DCMAKE_AR="$work/zig-$target/ar"
            -DCMAKE_RANLIB="$work/zig-$target/ranlib")
}

# cross_gcc TRIPLE: Debian's cross compiler, likewise.
cross_gcc() { compiler=(-DCMAKE_CXX_COMPILER="$1-g++"); }

# mingw: Debian's GCC for Windows, with a C++ library that need not be built first. It may spill AVX registers to a stack that
# is not aligned for them (GCC bug 54412): the tests have not met that, and wheels are Clang's.
mingw() { compiler=(-DCMAKE_CXX_COMPILER=x86_64-w64-mingw32-g++-posix -DCMAKE_EXE_LINKER_FLAGS=-static); }

# elsewhere NAME SYSTEM PROCESSOR [TARGETS OF CMAKE ...]: builds for another system with the compiler chosen before, in
# build/NAME: the library, or what is named.
elsewhere() {
  local name=$1 system=$2 processor=$3; shift 3
  step "compiled for $name"
  rm -rf "build/$name"
  env -u CMAKE_CXX_COMPILER_LAUNCHER cmake -S . -B "build/$name" -G Ninja -DCMAKE_SYSTEM_NAME="$system" -DCMAKE_SYSTEM_PROCESSOR="$processor" \
    "${compiler[@]}" -DOCTAVO_BUILD_PYTHON=OFF -DOCTAVO_BUILD_TESTS=ON -DOCTAVO_WERROR=ON \
    >"$work/elsewhere.log" || { cat "$work/elsewhere.log"; return 1; }
  cmake --build "build/$name" --target "${@:-octavo_gemm}" >"$work/elsewhere.log" || { cat "$work/elsewhere.log"; return 1; }
}

# there NAME "EMULATOR ..." TESTS...: runs native tests of build/NAME.
there() {
  local name=$1 test suffix program; local -a emulator; read -ra emulator <<<"$2"; shift 2
  step "native tests on $name: $*"
  for test in "$@"; do
    for suffix in "" .exe .wasm; do
      program=build/$name/tests/native/$test$suffix
      [ ! -e "$program" ] || break
    done
    "${emulator[@]}" "$program" $([[ $test == *_pool ]] && echo --no-fork) >"$work/there.log" 2>"$work/there.err" ||
      { cat "$work/there.log" "$work/there.err"; echo "$test failed on $name"; return 1; }
    grep -E "kernel|passed|not run" "$work/there.log" | tr -d '\r' | sed "s/^/$test: /"
  done
}
