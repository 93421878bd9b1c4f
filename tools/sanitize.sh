#!/usr/bin/env bash
# Builds the C++ tests with sanitizers and runs them: address + undefined behaviour, then threads.
#
#   tools/sanitize.sh            both
#   tools/sanitize.sh address    the first; `thread` is the second
#
# Exits non-zero on the first report. Builds go to build/sanitize-*, and are kept for the next run.
set -euo pipefail
cd "$(dirname "$0")/.."

jobs=${JOBS:-$(nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)}
which=${1:-both}
generator=()
if command -v ninja >/dev/null; then generator=(-G Ninja); fi

# Not detect_stack_use_after_return: GCC 12's fake stack does not keep the 64-byte alignment of AVX-512 variables.
export ASAN_OPTIONS=halt_on_error=1:strict_string_checks=1:detect_leaks=1
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
export TSAN_OPTIONS="halt_on_error=1:second_deadlock_stack=1:history_size=4:suppressions=$PWD/tools/tsan.supp"
# For tests that repeat less where each step is many times slower.
export VICINAL_SANITIZED=1

run() {
  local name=$1 flags=$2 build="build/sanitize-$1"
  shift 2
  echo "sanitize: $flags"
  cmake -S . -B "$build" "${generator[@]}" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DVICINAL_TESTS=ON \
    -DVICINAL_PYTHON=OFF -DVICINAL_SANITIZE="$flags" >/dev/null
  cmake --build "$build" -j "$jobs" >"$build/build.log" 2>&1 || {
    tail -n 50 "$build/build.log"
    return 1
  }
  "$@" ctest --test-dir "$build" --output-on-failure -j "$jobs"
}

case $which in
address | thread | both) ;;
*)
  echo "unknown sanitizer '$which'; use address, thread or both" >&2
  exit 2
  ;;
esac

if [ "$which" != thread ]; then run address address,undefined; fi
if [ "$which" != address ]; then
  # GCC's thread sanitizer cannot place its shadow where the kernel randomises addresses widely.
  if command -v setarch >/dev/null && setarch -R true 2>/dev/null; then
    run thread thread setarch -R
  else
    run thread thread
  fi
fi
