# Sourced by .ci/run and .ci/nightly, at the repository's root: a scratch folder, Debian packages, tools, native tests.
set -euo pipefail

step() { printf '\n== %s (after %d s)\n' "$*" "$SECONDS"; }
work=$(mktemp -d)
trap 'jobs -p | xargs -r kill 2>/dev/null; rm -rf "$work"' EXIT

# aside FUNCTIONS...: runs them one after the other, beside what follows: most of them keep one core busy. What they say is shown by
# `joined`, which waits for them and fails where one of them did.
asides=()
aside() {
  local name; name=$1
  (for function in "$@"; do "$function"; done) >"$work/aside-$name.log" 2>&1 &
  asides+=("$!:$work/aside-$name.log")
}
joined() {
  local entry
  for entry in ${asides[@]+"${asides[@]}"}; do
    wait "${entry%%:*}" || { cat "${entry#*:}"; echo "what ran aside failed"; exit 1; }
    cat "${entry#*:}"
  done
  asides=()
}

# Installs the Debian packages that are missing.
debian() {
  local package missing=() sudo=
  for package in "$@"; do dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || sudo=sudo
  $sudo apt-get update -qq
  $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# An environment for tools, on the path from here on.
tools() {
  python3 -m venv "$work/tools"
  "$work/tools/bin/pip" install -q "$@"
  export PATH="$work/tools/bin:$PATH"
}

# One cache of compiled files for all builds of a run. The library is the same in the README's command, the native tests, the wheel
# and on emulated Arm; warnings are errors in each of them, as flags must be the same, too.
compiler_cache() {
  debian ccache
  export CXX=g++ CMAKE_CXX_COMPILER_LAUNCHER=ccache CCACHE_DIR="$work/ccache" CCACHE_BASEDIR=/ CCACHE_NOHASHDIR=1
  export SKBUILD_BUILD_DIR=build/wheel SKBUILD_CMAKE_DEFINE=OCTAVO_WERROR=ON
}

machine=$(uname -m)
kernels=(scalar)
[ "$machine" = x86_64 ] && kernels+=(avx2)
grep -qw avx512_vnni /proc/cpuinfo && kernels+=(avx512vnni)

# Kernels of CPUs that are rare, with their instructions emulated (tests/native/CMakeLists.txt), and what else they have.
rare=()
[ "$machine" = x86_64 ] && rare=(amxint8 "amxint8 int4" "amxint8 grouped" "amxint8 tiles" avxvnni avx512vnni "avx512vnni int4" "avx512vnni grouped" "avx512vnni functions")

# native PRESET OPTIONS...: configures, builds with warnings as errors, and runs the native tests.
native() {
  local preset=$1; shift
  step "native tests: $preset $*"
  rm -rf "build/$preset"
  cmake --preset "$preset" "$@" >"$work/cmake.log" || { cat "$work/cmake.log"; return 1; }
  cmake --build --preset "$preset" >"$work/build.log" || { cat "$work/build.log"; return 1; }
  ctest --preset "$preset" >"$work/native-$preset.log" || { cat "$work/native-$preset.log"; return 1; }
  grep -E "kernel|passed|ThreadPool" "$work/native-$preset.log"
}

# require_kernels PRESET [KERNELS...]: fails unless the last native run of the preset said that it ran the kernels of this
# machine, with all that they are for, and those named.
require_kernels() {
  local preset=$1 kernel; shift
  for kernel in "${kernels[@]}" "${kernels[@]/%/ int4}" "${kernels[@]/%/ grouped}" "${kernels[@]/%/ functions}" "$@"; do
    grep -qE "kernel $kernel: [0-9]+ shapes" "$work/native-$preset.log" ||
      { echo "kernel $kernel did not run in the native tests ($preset)"; exit 1; }
  done
}

# on_arm CPU KERNELS...: the native tests of the preset aarch64 on an emulated CPU. A model runs the kernels that its features
# allow, and all of them must say so.
on_arm() {
  local cpu=$1 kernel program; shift
  step "64-bit Arm, emulated $cpu: $*"
  for program in test_digest test_kernels test_int4 test_grouped test_functions test_attention test_fixture; do
    qemu-aarch64 -cpu "$cpu" -L /usr/aarch64-linux-gnu "build/aarch64/tests/native/$program" | tee "$work/arm.log"
    for kernel in "$@"; do
      grep -qE "kernel $kernel( int4| grouped| functions| attention)?: ([0-9]+ shapes|recorded results|digest)" "$work/arm.log" ||
        { echo "kernel $kernel did not run in $program on $cpu"; exit 1; }
    done
  done
}
