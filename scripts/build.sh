#!/usr/bin/env bash
# scripts/build.sh PRESET JOBS [CMake options]: sets the machine up, configures a preset of CMakePresets.json (a build
# folder of another generator, compiler or place is configured afresh) and builds everything, incrementally.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

preset=$1
jobs=$2
shift 2

scripts/setup.sh

case "$preset" in release) folder=build ;; *) folder=build-$preset ;; esac
if ! cmake --preset "$preset" "$@"; then
    if [ ! -f "$folder/CMakeCache.txt" ]; then exit 1; fi
    echo "build: $folder could not be used as it was; configuring it afresh"
    cmake --fresh --preset "$preset" "$@"
fi
NINJA_STATUS='[%f/%t, %es] ' cmake --build "$folder" -j "$jobs"
