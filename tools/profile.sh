#!/usr/bin/env bash
# Profiles of the core at work; docs/profiling.md says how to read them.
#
#   tools/profile.sh install     the profilers, from the system's packages (root)
#   tools/profile.sh cpu         where the time goes, function by function (perf)
#   tools/profile.sh flamegraph  the same as a picture, SVG (perf)
#   tools/profile.sh memory      who allocates, how often, how much at the peak (heaptrack)
#   tools/profile.sh cache       instructions, cache misses and where they are (cachegrind, a simulated AVX2 machine)
#   tools/profile.sh trace       system calls, context switches, page faults (strace, perf stat)
#   tools/profile.sh python      where Python spends its time (cProfile)
#   tools/profile.sh repeat      how much whole runs of it differ: mean, deviation, range (hyperfine)
#   tools/profile.sh all         every one but install
#
# KIND=build|search|calls|write (search), SECONDS_EACH=8, DATA=folder or .hdf5, OUT=bench/results/profile. Where a tool is missing
# that part is left out with its package's name, and the exit code is 2.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
python=${PYTHON:-$root/.venv/bin/python}
kind=${KIND:-search}
seconds=${SECONDS_EACH:-8}
out=${OUT:-$root/bench/results/profile}
data=()
[ -z "${DATA:-}" ] || data=(--data "$DATA")
packages=(linux-perf heaptrack valgrind strace hyperfine)
missing=0

has() {
  command -v "$1" >/dev/null && return
  echo "$1 is missing, so this part is left out; the package is $2 (tools/profile.sh install)" >&2
  missing=1
  return 1
}

# A build with symbols and frame pointers, beside the one that is installed.
extension() {
  local build=$root/build/profile bin
  bin=$(dirname "$python")
  PATH="$bin:$PATH" cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo \
    -DCMAKE_CXX_FLAGS_RELWITHDEBINFO="-O3 -DNDEBUG -g1 -fno-omit-frame-pointer" -DPython_EXECUTABLE="$python" >/dev/null
  PATH="$bin:$PATH" cmake --build "$build" -j "${JOBS:-2}" --target _ext >/dev/null
  echo "$build"/_ext.*.so
}

# What is profiled, as words of a command; $1 is the number of seconds, the rest goes to `bench steady`.
work() {
  local s=$1
  shift
  command=("$python" "$root/tools/with_symbols.py" "$ext" steady --kind "$kind" --seconds "$s" --keep "$out/kept"
    --queries 1000 "${data[@]}" "$@")
}

record() {
  has perf linux-perf || return 1
  work "$seconds"
  # cpu-clock needs no counters, which virtual machines often lack.
  perf record -q -e cpu-clock -F 499 --call-graph fp -o "$out/perf.data" -- "${command[@]}"
}

cpu() {
  [ -f "$out/perf.data" ] || record || return 0
  perf report -i "$out/perf.data" --no-children -g none --percent-limit 0.5 --stdio 2>/dev/null | grep -v '^$' >"$out/cpu.txt"
  grep -v '^#' "$out/cpu.txt" | head -n 12
}

flamegraph() {
  [ -f "$out/perf.data" ] || record || return 0
  perf script -i "$out/perf.data" 2>/dev/null | "$python" "$root/tools/flamegraph.py" "$kind" >"$out/flamegraph.svg"
}

memory() {
  has heaptrack heaptrack || return 0
  work "$seconds"
  rm -f "$out"/heap.*
  heaptrack -o "$out/heap" "${command[@]}" >/dev/null
  heaptrack_print -f "$out"/heap.*[gz]* --print-leaks 0 >"$out/memory.txt" 2>/dev/null
  tail -n 6 "$out/memory.txt"
}

cache() {
  has valgrind valgrind || return 0
  # A simulated second is some fiftieth of a real one; what comes before the work counts too.
  work 15 --points 2000 --queries 50
  "${command[@]/#15/0.1}" >/dev/null
  # valgrind has no room for the address ranges that are reserved by default.
  VICINAL_RESERVE_MIB=256 VICINAL_ISA=avx2 PYTHONMALLOC=malloc valgrind --tool=cachegrind --cache-sim=yes --LL=33554432,16,64 \
    --cachegrind-out-file="$out/cachegrind.out" "${command[@]}" 2>"$out/cache-summary.txt" >/dev/null \
    || { tail -n 30 "$out/cache-summary.txt" >&2; exit 1; }
  cg_annotate "$out/cachegrind.out" >"$out/cache.txt" 2>/dev/null
  grep -E 'I +refs|D1 +miss|LLd? +miss' "$out/cache-summary.txt"
}

trace() {
  if has perf linux-perf; then
    work "$seconds"
    perf stat -e task-clock,context-switches,cpu-migrations,page-faults -o "$out/switches.txt" -- "${command[@]}"
    grep -E 'task|switches|migrations|faults' "$out/switches.txt"
  fi
  has strace strace || return 0
  work "$seconds"
  strace -f -c -w -o "$out/calls.txt" "${command[@]}"
  head -n 10 "$out/calls.txt"
}

python_time() {
  work "$seconds"
  "$python" -m cProfile -o "$out/python.prof" "${command[@]:1}"
  "$python" -c "import pstats; pstats.Stats('$out/python.prof').sort_stats('tottime').print_stats(25)" >"$out/python.txt"
  grep -A 8 ncalls "$out/python.txt"
}

repeat() {
  has hyperfine hyperfine || return 0
  work 0.5
  hyperfine --warmup 1 --runs 5 --export-json "$out/repeat.json" "${command[*]@Q}"
}

part=${1:-}
case "$part" in
  install)
    apt-get update -qq && apt-get install -y --no-install-recommends "${packages[@]}"
    exit
    ;;
  cpu | flamegraph | memory | cache | trace | python | repeat | all) ;;
  *)
    sed -n 's/^#   tools/  tools/p' "$0"
    exit 2
    ;;
esac

mkdir -p "$out"
case "$part" in cpu | flamegraph | all) rm -f "$out/perf.data" ;; esac
ext=$(extension)
[ "$part" != python ] || part=python_time
work 0.1
"${command[@]}"  # makes what the work needs beforehand
if [ "$part" = all ]; then
  for each in cpu flamegraph memory cache trace python_time repeat; do
    echo "== $each"
    "$each"
  done
else
  "$part"
fi
echo "written to $out"
if ((missing)); then exit 2; fi
