#!/usr/bin/env bash
# Runs compute-sanitizer over every kernel form on small problems, each run with a time limit, and prints a table.
#   scripts/sanitize.sh OUT [SECONDS_OF_A_RUN [AT_ONCE [CASES [TOOLS]]]]      defaults: 60, 8, all, all four
# CASES is a regular expression on the names. The programs lie in $TOKAMAK_BIN (default: build/bin), the library where they
# find it. A run of `tokamak tune --probe` makes one call by every variant of a format, from poisoned buffers; its journal
# says how far it came. Exit status 1 if a tool found something, racecheck apart: it cannot follow every order that the kernels
# rely on (docs/gpu_machine.md).
set -uo pipefail
out=${1:?usage: sanitize.sh OUT [SECONDS [AT_ONCE [CASES [TOOLS]]]]}
limit=${2:-60}
at_once=${3:-8}
wanted=${4:-.}
tools=${5:-memcheck racecheck synccheck initcheck}
bin=${TOKAMAK_BIN:-build/bin}
mkdir -p "$out"
export OMP_NUM_THREADS=1

# name|program and arguments; JOURNAL is a file of the run's own.
cases() {
  local moe="tokamak tune moe --hidden 384 --intermediate 256 --experts 6 --top-k 2 --candidate-seconds 1000 --probe JOURNAL"
  for format in bf16 fp8_block fp8_block_a16 int4_g32 int4_g64 int4_g128 mxfp4 mxfp4_a8 nvfp4; do
    echo "moe_${format}_1|$moe --tokens 1 --formats $format"
    echo "moe_${format}_37|$moe --tokens 37 --formats $format"
  done
  # From 1536 columns on the wide kernel prepares and combines under its multiplications.
  local long="tokamak tune moe --hidden 256 --intermediate 1536 --experts 4 --top-k 2 --candidate-seconds 1000 --probe JOURNAL"
  for format in bf16 int4_g32 nvfp4; do echo "moe_long_$format|$long --tokens 37 --formats $format"; done
  local mla="tokamak tune mla --top-k 200 --page-size 64 --memory 1000000 --candidate-seconds 1000 --tokens 3 --probe JOURNAL"
  echo "mla_576_fp8|$mla --heads 128 --dim 576 --value-dim 512 --formats fp8_656"
  echo "mla_576_bf16|$mla --heads 64 --dim 576 --value-dim 512 --formats bf16"
  echo "mla_512_fp8|$mla --heads 128 --dim 512 --value-dim 512 --formats fp8_584"
  echo "mla_512_bf16|$mla --heads 64 --dim 512 --value-dim 512 --formats bf16"
  local moe_test="fused_moe_gpu_test --gtest_brief=1 --gtest_filter"
  echo "wide_atomic|$moe_test=FusedMoeWide.ResultsAdded*:FusedMoeWide.OneResultAdded*"
  echo "wide_no_expert|$moe_test=FusedMoeWide.NoIdNamesAnExpert"
  echo "grouped_no_expert|$moe_test=FusedMoeGrouped.NoIdNamesAnExpert"
  echo "grouped_batched|$moe_test=FusedMoeBatchedGpu.GivesWhatIdsGive*"
  echo "logits|$moe_test=FusedMoeGpuLogits.Ties"
  echo "routed_gemm|moe_small_gpu_test --gtest_brief=1 --gtest_filter=RoutedGemmGpu.WhatNoExpert*"
  echo "small_ops|moe_small_gpu_test --gtest_brief=1 --gtest_filter=AlignGpu.Empty*:RouteGpu.Ties*:SumReduceGpu.MostExperts*"
  echo "mla_rows|mla_gpu_test --gtest_brief=1 --gtest_filter=PagedGatherGpu*:WriteKvGpu*:MergeStateGpu*"
}

run_one() {
  local name=${1%%|*} command=${1#*|} tool=$2
  local log="$out/$name.$tool.log" journal="$out/$name.$tool.journal"
  local extra=""
  # What a fill kernel of the benchmark wrote counts as written only if that kernel is watched, so all are.
  [ "$tool" = synccheck ] && extra="--num-cuda-barriers 16384"
  [ "$tool" = memcheck ] && extra="--report-api-errors no"
  rm -f "$journal"
  # shellcheck disable=SC2086
  timeout -k 2 "$limit" compute-sanitizer --tool "$tool" $extra --print-limit 5000 \
    $bin/${command//JOURNAL/$journal} >"$log" 2>&1
  echo "exit status $?" >>"$log"
}

# "clean", "N found", "no end"; how many launches the tool itself could not follow; how many variants were run.
verdict() {
  local log=$1 journal=$2 found lost status text
  status=$(sed -n 's/^exit status //p' "$log" | tail -n 1)
  found=$(grep -oE 'ERROR SUMMARY: [0-9]+|RACECHECK SUMMARY: [0-9]+' "$log" | tail -n 1 | grep -oE '[0-9]+$')
  lost=$(grep -c 'Internal Sanitizer Error' "$log")  # counted among the errors
  [ -n "$found" ] && [ "$lost" -gt 0 ] && found=$((found - lost))
  text="$found found"
  if [ -z "$found" ]; then
    case $status in 124 | 137) text="no end" ;; *) text="status $status" ;; esac
  fi
  [ "$found" = 0 ] && text=clean
  [ "$text" = clean ] && [ "$status" != 0 ] && text="status $status"
  [ "$lost" -gt 0 ] && text="$text, $lost lost"
  [ -f "$journal" ] && text="$text, $(grep -c '^end' "$journal")"
  echo "$text"
}

command -v compute-sanitizer >/dev/null || { echo "sanitize.sh: no compute-sanitizer on PATH" >&2; exit 2; }
export -f run_one
export out limit bin
for tool in $tools; do
  cases | grep -E "^[^|]*($wanted)" | sed "s/\$/#$tool/"
done | tr '\n' '\0' | xargs -0 -P "$at_once" -I{} bash -c 'line=$1; run_one "${line%#*}" "${line##*#}"' _ {}

bad=0
printf '%-18s' case
for tool in $tools; do printf ' %-18s' "$tool"; done
echo
while IFS='|' read -r name _; do
  printf '%-18s' "$name"
  for tool in $tools; do
    text=$(verdict "$out/$name.$tool.log" "$out/$name.$tool.journal")
    case $tool$text in racecheck*found*) ;; *found* | *status*) bad=1 ;; esac
    printf ' %-18s' "$text"
  done
  echo
done < <(cases | grep -E "^[^|]*($wanted)")
exit $bad
