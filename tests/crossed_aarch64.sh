#!/usr/bin/env bash
# Python tests on emulated 64-bit Arm in two minutes: the module is cross-compiled, and an arm64 Python of Debian's runs it under QEMU.
#
#     tests/crossed_aarch64.sh PYTEST ARGUMENTS ...           for the whole suite, in an arm64 root: emulated_aarch64.sh
#
# Needs aarch64-linux-gnu-g++, qemu-aarch64 (Debian's g++-aarch64-linux-gnu, qemu-user), cmake, ninja and pybind11. Nothing is installed: Debian's
# packages are unpacked, and wheels are put, below build/arm64-python. The working tree is tested.
set -euo pipefail
cd "$(dirname "$0")/.."
here=$PWD/build/arm64-python
core=$PWD/build/arm64-core  # beside build/aarch64, so that a compiler cache serves both
root=$here/root

step() { printf '\n== %s\n' "$*"; }

if [ ! -e "$here/.complete" ]; then
  step "an arm64 Python in $root"
  mkdir -p "$here"/apt/{lists/partial,cache/archives/partial} "$here/debs" "$root"
  : >"$here/apt/status"
  options=(-qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State::lists="$here/apt/lists"
    -o Dir::Cache="$here/apt/cache" -o Dir::State::status="$here/apt/status" -o APT::Sandbox::User=root)
  apt-get "${options[@]}" update
  (cd "$here/debs" && apt-get "${options[@]}" download python3.11-minimal libpython3.11-{minimal,stdlib,dev} \
    libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libffi8 libbz2-1.0 liblzma5 libssl3 libuuid1 libcrypt1)
  for package in "$here"/debs/*.deb; do dpkg -x "$package" "$root"; done
  platforms=$(printf -- '--platform manylinux_2_%s_aarch64 ' 17 27 28)
  # shellcheck disable=SC2086
  python3 -m pip install -q --target "$here/site" --only-binary :all: --python-version 3.11 $platforms \
    numpy safetensors gguf pytest hypothesis
  touch "$here/.complete"
fi

step "octavo._core for aarch64"
cmake -S . -B "$core" -G Ninja -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DOCTAVO_WERROR=ON \
  -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_CXX_FLAGS="-isystem $root/usr/include" \
  -DSKBUILD_PROJECT_VERSION=0 -DPython_INCLUDE_DIR="$root/usr/include/python3.11" \
  -Dpybind11_DIR="$(python3 -m pybind11 --cmakedir)" >"$here/cmake.log" || { cat "$here/cmake.log"; exit 1; }
cmake --build "$core" >"$here/build.log" || { cat "$here/build.log"; exit 1; }
rm -rf "$here/package"
mkdir "$here/package"
cp -r python/octavo "$here/package/octavo"
rm -f "$here"/package/octavo/_core*.so
cp "$core"/_core*.so "$here/package/octavo/_core.so"

step "pytest on emulated ${QEMU_CPU:=max,sve=off}: $*"
QEMU_CPU=$QEMU_CPU PYTHONPATH="$here/package:$here/site" qemu-aarch64 -L "$root" "$root/usr/bin/python3.11" \
  -m pytest -q -p no:cacheprovider "$@"
