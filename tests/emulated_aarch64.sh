#!/usr/bin/env bash
# The whole Python suite on emulated 64-bit Arm: an arm64 Debian root, a wheel built in it, pytest with each Arm kernel.
#
#     tests/emulated_aarch64.sh [ROOT] [PYTEST ARGUMENTS ...]      as root, on Debian, Linux 6.7 or later
#
# ROOT (default build/arm64-root, about 1.2 GB) is kept and used again. KERNELS="neoni8mm neondot neon" chooses the kernels.
# The committed tree is tested (git archive HEAD). Slow: an emulated CPU does everything, and most of the time is not ours.
#
# Needs debootstrap, proot and QEMU's user mode. Programs of the root are run by a static QEMU that is registered with
# binfmt_misc in a user namespace of its own: nothing is registered for the rest of the system.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$(realpath -m "${1:-build/arm64-root}")
[ $# -gt 0 ] && shift
kernels=${KERNELS:-neoni8mm neondot neon}

step() { printf '\n== %s\n' "$*"; }
[ "$(id -u)" = 0 ] || { echo "run as root: debootstrap needs it"; exit 1; }
for tool in debootstrap:debootstrap proot:proot qemu-aarch64:qemu-user; do
  command -v "${tool%:*}" >/dev/null || { echo "install ${tool#*:}"; exit 1; }
done

mkdir -p "$(dirname "$root")"
qemu=$(command -v qemu-aarch64-static || true)
if [ -z "$qemu" ]; then  # the package replaces qemu-user-binfmt: take the program out of it, without installing
  qemu=$(dirname "$root")/qemu-user-static/usr/bin/qemu-aarch64-static
  if [ ! -x "$qemu" ]; then
    download=$(mktemp -d)
    (cd "$download" && chmod 777 . && apt-get download -qq qemu-user-static)
    dpkg -x "$download"/qemu-user-static_*.deb "$(dirname "$root")/qemu-user-static"
    rm -rf "$download"
  fi
fi

# Runs a command inside the root. The magic is an ELF header: 64 bits, little-endian, executable or shared, AArch64. F: the
# interpreter is opened now, here, and so need not be in the root.
inside() {
  env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root PIP_DISABLE_PIP_VERSION_CHECK=1 \
    QEMU_CPU="${QEMU_CPU:-max,sve=off}" OCTAVO_ISA="${OCTAVO_ISA:-}" ROOT="$root" QEMU="$qemu" \
    OCTAVO_TEST_UNDER_QEMU=1 LOKY_MAX_CPU_COUNT=1 \
    unshare --user --map-root-user --mount --pid --fork sh -ec '
      mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
      magic="\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
      mask="\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
      printf "%s" ":octavo-aarch64:M::$magic:$mask:$QEMU:F" >/proc/sys/fs/binfmt_misc/register
      mount --rbind /dev "$ROOT/dev"
      mount --rbind /proc "$ROOT/proc"
      exec chroot "$ROOT" "$@"' sh "$@"
}

if [ ! -e "$root/.complete" ]; then
  step "arm64 Debian in $root"
  debootstrap --foreign --arch=arm64 --variant=minbase \
    --include=python3-dev,python3-venv,g++,cmake,ninja-build,ca-certificates bookworm "$root"
  [ -L "$root/proc" ] && rm "$root/proc" && mkdir "$root/proc"  # debootstrap's way inside some containers
  # Its second stage sets owners that a namespace with one user does not have: proot pretends.
  env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C HOME=/root DEBOOTSTRAP_DIR=/debootstrap \
    proot -q qemu-aarch64 -S "$root" -w / /bin/sh /debootstrap/debootstrap --second-stage
  inside python3 -m venv /venv
  touch "$root/.complete"
fi
cp /etc/resolv.conf "$root/etc/resolv.conf"
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"  # a proxy's certificate may be in it

step "a wheel, built there"
rm -rf "$root/src" "$root/dist"
mkdir "$root/src"
git archive HEAD | tar -x -C "$root/src"
inside sh -ec 'cd /src && /venv/bin/pip wheel -q --no-deps -w /dist .'
wheel=$(cd "$root" && ls dist/*.whl)
echo "$wheel"
inside /venv/bin/pip install -q --only-binary=:all: "/$wheel[test]"
inside /venv/bin/pip install -q --no-deps --force-reinstall "/$wheel"
inside /venv/bin/octavo info

for kernel in $kernels; do
  step "pytest, kernel $kernel"
  OCTAVO_ISA=$kernel inside sh -ec 'cd /src && exec /venv/bin/python -m pytest -q -p no:cacheprovider "$@"' sh "$@"
done
echo
echo "the suite passed on emulated aarch64: $kernels"
