#!/bin/bash
# GPU checks in one call: tools/device_check.sh WHAT... on a machine with a GPU. Logs go to $OUT (default: a temporary
# folder), a short table is printed last. SHUNT names the program, PLANS a folder of plans made by `shunt compile`, ONLY a
# pattern (default: *) for the folders of `verify` and the cases of `kernels`.
#
#   verify            conformance models, DeepSpeed and quantised folders, storyteller: goldens, greedy ids, near-ties that were forced
#   nll               negative log-likelihood of storyteller on a text
#   sealed            every plan in $PLANS runs with --sealed
#   kernels           the op tests with label gpu (KERNELS_TEST names the test program)
#   sanitize          compute-sanitizer memcheck and racecheck over storyteller
#   bench PLAN:P:B... decode and prefill of plans in $PLANS, e.g. bench olmoe-1b-7b:2048:1 (stops at a non-match)
#   profile PLAN:P:B  the same with one step timed kernel by kernel
set -u
SHUNT=${SHUNT:-build/shunt}
PLANS=${PLANS:-.deps/plans}
ONLY=${ONLY:-*}
OUT=${OUT:-$(mktemp -d)}
export SHUNT_CACHE_DIR=${SHUNT_CACHE_DIR:-/tmp/shunt-cache}
table=()

# check NAME COMMAND...: runs it with its log in $OUT, notes the result.
check() {
  local name=$1 start=$SECONDS
  shift
  if timeout 300 "$@" >"$OUT/$name.log" 2>&1; then
    table+=("ok    $name  ($((SECONDS - start)) s)  $(tail -n 1 "$OUT/$name.log" | cut -c1-150)")
  else
    table+=("FAIL  $name  ($((SECONDS - start)) s)  $(grep -m1 -E 'FAIL|rror|ERROR' "$OUT/$name.log" | cut -c1-200)")
  fi
}

# verify_case NAME MODEL flags...: a line with how many near-ties were forced and the largest dissimilarity.
verify_case() {
  local name=verify-$1
  shift
  check "$name" "$SHUNT" verify "$@" --target sm_90a
  local ties worst
  ties=$(sed -n 's/^ok *routing *//p' "$OUT/$name.log")
  worst=$(sed -n 's/.*dissimilarity \([^,]*\),.*/\1/p' "$OUT/$name.log" | sort -g | tail -n 1)
  table[-1]+="  ${ties:-no router}, dissimilarity ${worst:-none}"
}

bench_case() {  # PLAN:P:B extra flags...
  IFS=: read -r plan prompt batch <<<"$1"
  shift
  local name="bench-$plan-p$prompt-b$batch"
  timeout 300 "$SHUNT" bench "$PLANS/$plan" -p "$prompt" -b "$batch" -n 32 "$@" >"$OUT/$name.log" 2>&1
  cat "$OUT/$name.log" | tr '\r' '\n' | grep -vE '^ *$|repetition|^loading'
}

while [ $# -gt 0 ]; do
  what=$1
  shift
  case $what in
    verify)
      for dir in tests/data/conformance/$ONLY/ tests/data/deepspeed/$ONLY/ tests/data/quantised/$ONLY/; do
        [ -f "$dir/golden.safetensors" ] && verify_case "$(basename "$dir")" "$dir"
      done
      [[ storyteller == $ONLY ]] && verify_case storyteller examples/storyteller --golden tests/data/storyteller/golden.json
      ;;
    nll)
      check nll-storyteller "$SHUNT" verify examples/storyteller --target sm_90a --text tests/data/storyteller/heldout.txt \
        --tokens 16384 --window 512
      ;;
    sealed)
      for plan in "$PLANS"/*/; do
        check "sealed-$(basename "$plan")" "$SHUNT" run "$plan" --sealed --ids -p 1,2,3,4,5 -p 7 -n 8 --ignore-eos
      done
      ;;
    kernels) check kernels "${KERNELS_TEST:-build/tests/kernels_gpu_test}" --gtest_filter="*$ONLY*" --gtest_brief=1 ;;
    sanitize)
      for tool in memcheck racecheck; do
        check "sanitize-$tool" compute-sanitizer --tool $tool --error-exitcode 9 "$SHUNT" run "$PLANS/storyteller" --sealed \
          --ids -p 809,315,259,1101 -p 40,484 -n 4 --ignore-eos
      done
      ;;
    bench) while [[ ${1:-} == *:*:* ]]; do bench_case "$1" -r 3; shift; done ;;
    profile) while [[ ${1:-} == *:*:* ]]; do bench_case "$1" --profile -r 1; shift; done ;;
    *) echo "unknown check '$what' (see the head of $0)"; exit 2 ;;
  esac
done
[ ${#table[@]} = 0 ] || printf '%s\n' "${table[@]}"
