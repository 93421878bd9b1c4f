#!/usr/bin/env bash
# Builds the native core and its tests for 64-bit ARM, runs them under qemu, and shows that the kernels use NEON.
# It installs nothing: where a tool is missing it names the package and exits 2.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
missing=()
need() { command -v "$1" >/dev/null || missing+=("$2"); }
need aarch64-linux-gnu-g++ g++-aarch64-linux-gnu
need aarch64-linux-gnu-objdump binutils-aarch64-linux-gnu
need qemu-aarch64 qemu-user
need cmake cmake
need ninja ninja-build
if ((${#missing[@]})); then
  echo "missing packages: ${missing[*]}; install them with: apt-get install ${missing[*]}" >&2
  exit 2
fi

build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
cmake -S "$root" -B "$build" -G Ninja -DCMAKE_TOOLCHAIN_FILE="$root/tools/aarch64-toolchain.cmake" \
  -DVICINAL_PYTHON=OFF -DVICINAL_TESTS=ON >/dev/null
cmake --build "$build" -j "${JOBS:-2}"
# qemu-user cannot start threads in a forked child, and keeps a table for every page reserved.
(cd "$build" && VICINAL_RESERVE_MIB=64 VICINAL_TEST_NO_FORK=1 VICINAL_SANITIZED=1 ctest --output-on-failure)

listing=$build/listing.txt
aarch64-linux-gnu-objdump -d "$build/libvicinal_native.a" >"$listing"
for instruction in cnt fmla uabd prfm; do
  # To a file first: grep -q would end the pipe early and fail under pipefail.
  count=$(grep -cP "\t${instruction}\t" "$listing" || true)
  echo "$instruction: $count in the disassembly"
  if ((count == 0)); then
    echo "no $instruction instruction: the NEON kernels were not compiled as meant" >&2
    exit 1
  fi
done
