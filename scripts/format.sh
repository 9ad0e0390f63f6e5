#!/usr/bin/env bash
# Formats all tracked C++ and CUDA files with clang-format; --check only says which files differ and fails then.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! command -v clang-format >/dev/null; then
    echo "format: clang-format is not installed" >&2
    exit 1
fi
mode=(-i)
if [ "${1:-}" = --check ]; then mode=(--dry-run -Werror); fi
git ls-files -z '*.h' '*.cpp' '*.cu' '*.cuh' | xargs -0 -r clang-format "${mode[@]}"
