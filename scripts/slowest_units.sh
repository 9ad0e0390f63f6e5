#!/usr/bin/env bash
# scripts/slowest_units.sh FOLDER [COUNT]: the translation units of a Ninja build folder that took longest to compile.
set -euo pipefail

log=$1/.ninja_log
if [ ! -f "$log" ]; then
    echo "slowest units: $log does not exist" >&2
    exit 1
fi
# Fields: start ms, end ms, time stamp, output, hash. The last line of an output is its latest build.
awk -F '\t' '$4 ~ /\.o$/ {seconds[$4] = ($2 - $1) / 1000} END {for (unit in seconds) printf "%8.1f s  %s\n", seconds[unit], unit}' "$log" |
    sort -rn | awk -v count="${2:-10}" 'NR <= count'
