#!/usr/bin/env bash
# Builds with CUDA and gathers what a GPU machine needs into a folder: programs, libraries, data and the script that runs
# them there (gpu_run.sh). The folder is self-contained: copy it to a machine with a driver and run `gpu_run.sh OUT`.
#   scripts/gpu_archive.sh [FOLDER]     default: gpu-archive
set -euo pipefail
cd "$(dirname "$0")/.."
archive=${1:-gpu-archive}
build=${TOKAMAK_GPU_BUILD:-build}

cmake -S . -B "$build" -G Ninja -DTOKAMAK_CUDA=ON >/dev/null
cmake --build "$build"

rm -rf "$archive"
mkdir -p "$archive/bin" "$archive/lib"
for program in tokamak layout_probe moe_decode_bench moe_prefill_bench mla_decode_probe; do
  [ ! -x "$build/bin/$program" ] || cp "$build/bin/$program" "$archive/bin/"
done
# Every test program that carries the label gpu.
ctest --test-dir "$build" -L gpu --show-only=json-v1 |
  python3 -c 'import json, sys
for t in json.load(sys.stdin)["tests"]: print(t["command"][0])' | sort -u > "$archive/gpu_tests.txt"
while read -r test; do cp "$test" "$archive/bin/"; done < "$archive/gpu_tests.txt"
sed -i 's|.*/||' "$archive/gpu_tests.txt"
cp -a "$build"/lib/libtokamak.so* "$archive/lib/"
# Libraries that a bare machine may lack.
for name in libgomp.so.1 libstdc++.so.6 libgcc_s.so.1; do
  cp -L "$(${CXX:-g++} -print-file-name=$name)" "$archive/lib/"
done
strip --strip-debug "$archive"/bin/* 2>/dev/null || true
if [ -d "${TOKAMAK_CONFORMANCE_DIR:-../shared/conformance}" ]; then
  cp -r "${TOKAMAK_CONFORMANCE_DIR:-../shared/conformance}" "$archive/conformance"
fi
cp scripts/gpu_run.sh scripts/sanitize.sh "$archive/"
du -sh "$archive" | sed 's/^/archive: /'
