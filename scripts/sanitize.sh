#!/usr/bin/env bash
# Runs compute-sanitizer over every kernel form on small problems, each run with a time limit, and prints a table.
#   scripts/sanitize.sh OUT [SECONDS_OF_A_RUN [AT_ONCE [CASES [TOOLS]]]]      defaults: 60, 8, all, all four
# CASES is a regular expression on the names. The programs lie in $TOKAMAK_BIN (default: build/bin), the library where they
# find it. A run takes up to 10 s of one core; most of it, the tool's start. Exit status 1 if a tool found something, but for
# racecheck, which cannot follow every order that the kernels rely on, and for synccheck's "Missing wait", which a barrier
# that nobody waits for is due (docs/gpu_machine.md).
set -uo pipefail
out=${1:?usage: sanitize.sh OUT [SECONDS [AT_ONCE [CASES [TOOLS]]]]}
limit=${2:-60}
at_once=${3:-8}
wanted=${4:-.}
tools=${5:-memcheck racecheck synccheck initcheck}
bin=${TOKAMAK_BIN:-build/bin}
mkdir -p "$out"
export OMP_NUM_THREADS=1

# name|tools, all: those asked for|program and arguments.
cases() {
  local mla=Mla/SparseAttentionSmall.CallMatchesTheDefinition moe=Moe/FusedMoeSmall.CallMatchesTheDefinition
  local mla_test="mla_gpu_test --gtest_filter" moe_test="fused_moe_gpu_test --gtest_filter"
  echo "mla_flat_64|all|$mla_test=$mla/flat_decode_r64_*"
  echo "mla_flat_128|all|$mla_test=$mla/flat_decode_r128_*:$mla/flat_decode_r256_*"
  echo "mla_direct_16|all|$mla_test=$mla/direct_decode_h16_*"
  echo "mla_grid|all|$mla_test=$mla/grid_*"
  # Forms whose warps have roles of their own. As clusters they do not end under the other tools, those with 64 heads
  # of the direct form under none: an arrival at the cluster's barrier waits there for the block's other warps.
  local one="" several=""
  for form in sparse_decode direct_decode_h64 paired_decode; do
    one="$one:$mla/${form}_*s1_*"
    [ $form = direct_decode_h64 ] && continue
    several="$several:$mla/${form}_*s2_*:$mla/${form}_*s4_*:$mla/${form}_*s6_*:$mla/${form}_*s8_*"
  done
  echo "mla_roles|all|$mla_test=${one#:}"
  echo "mla_role_splits|initcheck|$mla_test=${several#:}"
  for format in bf16 fp8_block fp8_block_a16 int4_g32 int4_g64 int4_g128 int4_g32_f16 int4_g64_f16 int4_g128_f16 mxfp4 nvfp4; do
    local others=""  # formats whose names go on
    for longer in a16 a8 f16; do [[ $format == *_$longer ]] || others="$others:$moe/${format}_${longer}_*"; done
    echo "moe_$format|all|$moe_test=$moe/${format}_*-*_wide_*$others"
  done
  # By themselves: where synccheck finds something, what follows in the process fails.
  "$bin/fused_moe_gpu_test" --gtest_list_tests --gtest_filter="$moe/*_wide_*" |
    sed -nE 's/^  (CallMatchesTheDefinition.(\S+)).*/\2/p' | while read -r name; do echo "moe_$name|all|$moe_test=$moe/$name"; done
  echo "wide_atomic|all|$moe_test=FusedMoeWide.ResultsAdded*:FusedMoeWide.OneResultAdded*"
  echo "wide_no_expert|all|$moe_test=FusedMoeWide.NoIdNamesAnExpert"
  echo "grouped_no_expert|all|$moe_test=FusedMoeGrouped.NoIdNamesAnExpert"
  echo "grouped_batched|all|$moe_test=FusedMoeBatchedGpu.GivesWhatIdsGive*"
  echo "logits|all|$moe_test=FusedMoeGpuLogits.Ties"
  echo "routed_gemm|all|moe_small_gpu_test --gtest_filter=RoutedGemmGpu.WhatNoExpert*"
  echo "small_ops|all|moe_small_gpu_test --gtest_filter=AlignGpu.Empty*:RouteGpu.Ties*:SumReduceGpu.MostExperts*"
  echo "mla_rows|all|mla_gpu_test --gtest_filter=PagedGatherGpu*:WriteKvGpu*:MergeStateGpu*"
}

run_one() {
  local name=${1%%|*} command=${1##*|} tool=$2
  local log="$out/$name.$tool.log"
  local extra="--report-api-errors no"
  # What a fill kernel of the benchmark wrote counts as written only if that kernel is watched, so all are.
  [ "$tool" = synccheck ] && extra="$extra --num-cuda-barriers 16384"
  # shellcheck disable=SC2086
  timeout -k 2 "$limit" compute-sanitizer --tool "$tool" $extra --print-limit 5000 "$bin"/$command >"$log" 2>&1
  echo "exit status $?" >>"$log"
}

# "clean", "N found", "no end"; how many launches the tool itself could not follow; how many tests were run.
verdict() {
  local log=$1 found lost waits status text
  [ -f "$log" ] || { echo "not run"; return; }
  status=$(sed -n 's/^exit status //p' "$log" | tail -n 1)
  found=$(grep -oE 'ERROR SUMMARY: [0-9]+|RACECHECK SUMMARY: [0-9]+' "$log" | head -n 1 | grep -oE '[0-9]+$')
  lost=$(grep -c 'Internal Sanitizer Error' "$log")  # counted among the errors
  waits=$(grep -c 'Missing wait' "$log")
  [ -n "$found" ] && found=$((found - lost))
  text="$found found"
  [ -n "$found" ] && [ "$waits" -gt 0 ] && [ "$found" -le "$waits" ] && text="missing waits"
  if [ -z "$found" ]; then
    case $status in 124 | 137) text="no end" ;; *) text="status $status" ;; esac
  fi
  [ "$found" = 0 ] && text=clean
  [ "$text" = clean ] && [ "$status" != 0 ] && text="status $status"
  [ "$lost" -gt 0 ] && text="$text, $lost lost"
  echo "$text, $(grep -c '^\[       OK' "$log")"
}

command -v compute-sanitizer >/dev/null || { echo "sanitize.sh: no compute-sanitizer on PATH" >&2; exit 2; }
export -f run_one
export out limit bin
chosen=$(cases | grep -E "^[^|]*($wanted)")
for tool in $tools; do
  grep -E "^[^|]*\|(all|$tool)\|" <<<"$chosen" | sed "s/\$/#$tool/"
done | tr '\n' '\0' | xargs -0 -P "$at_once" -I{} bash -c 'line=$1; run_one "${line%#*}" "${line##*#}"' _ {}

bad=0
printf '%-36s' case
for tool in $tools; do printf ' %-18s' "$tool"; done
echo
while IFS='|' read -r name _; do
  printf '%-36s' "$name"
  for tool in $tools; do
    text=$(verdict "$out/$name.$tool.log")
    case $tool$text in racecheck*found*) ;; *found* | *status*) bad=1 ;; esac
    printf ' %-18s' "$text"
  done
  echo
done <<<"$chosen"
exit $bad
