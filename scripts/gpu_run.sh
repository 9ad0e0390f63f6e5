#!/usr/bin/env bash
# Runs on a GPU machine, inside the folder that gpu_archive.sh made: gpu tests, conformance, compute-sanitizer on small
# shapes, benchmarks. Writes logs and the JSON files of results/<device> into OUT; exit status 1 if a test failed or a
# result was wrong.
#   ./gpu_run.sh OUT [tests|sanitize|bench|ceilings|tuning|probes ...]     default: tests sanitize ceilings bench
#   bench: moe_decode.json, mla_decode.json and moe_prefill.json; tuning: h200.json, tuning.json and tuning_judged.json;
#   probes: every variant of the developers' programs
set -uo pipefail
cd "$(dirname "$0")"
out=${1:?usage: gpu_run.sh OUT [tests|sanitize|bench|ceilings|tuning|probes ...]}
shift
parts=${*:-tests sanitize ceilings bench}
mkdir -p "$out"
export LD_LIBRARY_PATH="$PWD/lib:${LD_LIBRARY_PATH:-}"
# cuBLASLt for the matrix ceiling, wherever this machine keeps it.
blas=$(ldconfig -p 2>/dev/null | awk '/libcublasLt\.so\.13/ {print $NF; exit}')
[ -n "$blas" ] || blas=$(find / -xdev -name 'libcublasLt.so.13' -not -path '/proc/*' 2>/dev/null | head -n 1)
[ -n "$blas" ] && export LD_LIBRARY_PATH="$LD_LIBRARY_PATH:$(dirname "$blas")"
failed=0

# A program in seven parts at once: most of the time is the CPU's, which computes the references.
run_tests() {
  local test part parts=7
  while read -r test; do
    for part in $(seq 0 $((parts - 1))); do
      (GTEST_TOTAL_SHARDS=$parts GTEST_SHARD_INDEX=$part OMP_NUM_THREADS=2 bin/"$test" --gtest_brief=1 >"$out/$test.$part.log" 2>&1
        echo "exit status $?" >>"$out/$test.$part.log") &
    done
    wait
    cat "$out/$test".[0-9].log >"$out/$test.log"
    rm "$out/$test".[0-9].log
    echo "== $test: $(awk '/^\[  PASSED  \]/ {n += $4} END {print n + 0}' "$out/$test.log") passed"
    if grep '^exit status' "$out/$test.log" | grep -qv ' 0$'; then
      failed=1
      echo "FAILED: $test"
      grep -E '^\[  FAILED  \]|^exit status [^0]' "$out/$test.log" | tail -n 30
    fi
  done < gpu_tests.txt
  if [ -d conformance ]; then
    bin/tokamak check conformance --device cuda --strict >"$out/conformance.log" 2>&1 || failed=1
    tail -n 1 "$out/conformance.log"
  fi
}

# One small call by every kernel form: some 270 runs of a few seconds each.
run_sanitizer() {
  TOKAMAK_BIN=bin ./sanitize.sh "$out/sanitize" 60 8 >"$out/sanitize.txt" || { failed=1; echo "FAILED: sanitize"; }
  cat "$out/sanitize.txt"
}

# The recorded benchmarks, some four minutes; one that hangs costs no more than its limit.
run_benchmarks() {
  timeout 150 bin/tokamak bench moe --clearing --out "$out/moe_decode.json" >"$out/moe_decode.txt" 2>&1 ||
    { failed=1; echo "FAILED: bench moe"; tail -n 3 "$out/moe_decode.txt"; }
  timeout 200 bin/tokamak bench mla --configurations --out "$out/mla_decode.json" >"$out/mla_decode.txt" 2>&1 ||
    { failed=1; echo "FAILED: bench mla"; tail -n 3 "$out/mla_decode.txt"; }
  timeout 150 bin/tokamak bench moe --preset prefill --clearing --out "$out/moe_prefill.json" >"$out/moe_prefill.txt" 2>&1 ||
    { failed=1; echo "FAILED: bench moe --preset prefill"; tail -n 3 "$out/moe_prefill.txt"; }
}

# The table that ships (configs/h200.json) with its evidence, and the judgement of such tunings.
run_tuning() {
  timeout 640 bin/tokamak tune all --store "$out/h200.json" --out "$out/tuning.json" >"$out/tuning.txt" 2>&1 ||
    { failed=1; echo "FAILED: tune all"; tail -n 3 "$out/tuning.txt"; }
  timeout 640 bin/tokamak bench tuning --out "$out/tuning_judged.json" >"$out/tuning_judged.txt" 2>&1 ||
    { failed=1; echo "a claim of bench tuning is missed"; }
  tail -n 5 "$out/tuning_judged.txt"
}

run_ceilings() { bin/tokamak info --ceilings --json "$out/ceilings.json" || failed=1; }

run_probes() {
  bin/layout_probe "$out/layout_probe.json" || failed=1
  [ ! -x bin/moe_decode_bench ] || bin/moe_decode_bench "$out/moe_decode_bench.json" || failed=1
  [ ! -x bin/moe_prefill_bench ] || bin/moe_prefill_bench "$out/moe_prefill_bench.json" || failed=1
  [ ! -x bin/mla_decode_probe ] || bin/mla_decode_probe "$out/mla_decode_probe.json" || failed=1
}

for part in $parts; do
  case $part in
    tests) run_tests ;;
    sanitize) run_sanitizer ;;
    bench) run_benchmarks ;;
    ceilings) run_ceilings ;;
    tuning) run_tuning ;;
    probes) run_probes ;;
    *) echo "unknown part: $part"; exit 2 ;;
  esac
done
exit $failed
