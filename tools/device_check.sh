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
#   experts FLAGS...  the experts of a decode step in every way, e.g. experts "--tokens 8 --ranks 4" (EXPERT_BENCH names the program)
#   attention FLAGS... attention of decode steps, e.g. attention "--cases 1:2048,64:256" (ATTENTION_BENCH names the program)
#   mesh FLAGS...     models on several GPUs, e.g. mesh "--tp 2" "--ep 4": goldens (a thread a GPU), storyteller's likelihood
#   random N          random models on random meshes of up to N GPUs; DRAWS of them from FIRST on (MESHES_TEST names the test program)
#   routes FLAGS...   routes that storyteller's gates count on a text, e.g. routes "" "--dp 2 --tp 2 --ep 4", against those of the cpu
#   launch N          the same ids from N threads, torchrun, mpirun's variables, and over sockets alone
#   kill N            N processes; one is killed while it loads, captures, prefills and decodes: the others must end and say so
#   peers             sums over peer memory on 2, 4 and 8 GPUs, exact, over and over (KERNELS_TEST as above)
#   sums N            sums over N GPUs by every row of the kernel table, 8 KiB to 4 MiB (SUM_BENCH names the program)
#   layouts N         a table of decode steps of three shapes on N GPUs and on one, for batch 1, 8, 64, with predicted speed-ups
set -u
SHUNT=${SHUNT:-build/shunt}
PLANS=${PLANS:-.deps/plans}
ONLY=${ONLY:-*}
OUT=${OUT:-$(mktemp -d)}
export SHUNT_CACHE_DIR=${SHUNT_CACHE_DIR:-/tmp/shunt-cache}
# All that tp can split is split, as in models that are large enough for it.
SPLIT=${SPLIT:---keep-whole none}
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

MESH_MODELS="mixtral qwen2_moe deepseek_v3 gpt_oss olmoe granitemoeshared"

# ranks N COMMAND...: N processes with the variables that mpirun sets; pids in $pids, logs $OUT/$log.RANK.
ranks() {
  local n=$1 port=$((20000 + RANDOM % 20000)) r
  shift
  pids=()
  for ((r = 0; r < n; r++)); do
    env OMPI_COMM_WORLD_RANK=$r OMPI_COMM_WORLD_SIZE="$n" OMPI_COMM_WORLD_LOCAL_RANK=$r MASTER_ADDR=127.0.0.1 \
      MASTER_PORT=$port "$@" >"$OUT/$log.$r" 2>&1 &
    pids+=($!)
  done
}

SAME_IDS='[ -s "$0" ] && cmp "$0" "$1"'  # a run that printed nothing is no success

launch_case() {  # N
  local n=$1 prompt="-p 809,315,259,1101 -p 40,484 -n 24 --ids --ignore-eos -q"
  local plan=/tmp/launch-$n.plan
  "$SHUNT" compile examples/storyteller --target sm_90a --ep "$n" $SPLIT -o "$plan" 2>"$OUT/launch-compile.log" || return 1
  "$SHUNT" run $plan $prompt >"$OUT/launch-threads.log" 2>&1
  torchrun --nproc-per-node "$n" --no-python "$SHUNT" run $plan $prompt >"$OUT/launch-torchrun.log" 2>"$OUT/launch-torchrun.err"
  log=launch-mpi
  ranks "$n" "$SHUNT" run $plan $prompt
  wait "${pids[@]}"
  log=launch-sockets
  "$SHUNT" compile examples/storyteller --target sm_90a --ep "$n" $SPLIT --peer-memory off -o $plan-nccl \
    2>"$OUT/launch-compile-nccl.log" || return 1
  NCCL_P2P_DISABLE=1 NCCL_SHM_DISABLE=1 ranks "$n" "$SHUNT" run $plan-nccl $prompt
  wait "${pids[@]}"
  "$SHUNT" run $plan-nccl $prompt >"$OUT/launch-nccl.log" 2>&1
  local way
  for way in launch-torchrun.log launch-mpi.0; do
    check "$way" bash -c "$SAME_IDS" "$OUT/launch-threads.log" "$OUT/$way"
  done
  check launch-sockets.0 bash -c "$SAME_IDS" "$OUT/launch-nccl.log" "$OUT/launch-sockets.0"
}

# routes_case FLAGS: as many routes in each layer as on the cpu, and to other experts only where rounding flips a near-tie.
routes_case() {
  local name="routes$(tr -d ' ' <<<"$1")" text="--text tests/data/storyteller/heldout.txt --tokens 16384"
  [ -f "$OUT/routes-cpu.json" ] ||
    "$SHUNT" verify examples/storyteller --target cpu $text --route-trace "$OUT/routes-cpu.json" >"$OUT/routes-cpu.log" 2>&1
  check "$name" "$SHUNT" verify examples/storyteller --target sm_90a $text $1 $SPLIT --route-trace "$OUT/$name.json"
  local differ
  differ=$(awk 'BEGIN { bad = 0 } /^ *\[[0-9]/ { gsub(/[^0-9,]/, ""); n = split($0, x, ",");
      if (FNR == NR) { want[FNR] = $0; next }
      split(want[FNR], w, ","); d = a = b = 0
      for (i = 1; i <= n; ++i) { a += x[i]; b += w[i]; d += x[i] > w[i] ? x[i] - w[i] : w[i] - x[i] }
      all += b; sum += d; bad += a != b || b == 0 }
    END { print (bad || !all || sum > 0.02 * all ? "FAIL" : "ok"), sum / 2 " of " all " routes differ" }' \
    "$OUT/routes-cpu.json" "$OUT/$name.json" 2>&1)
  [[ $differ == ok* ]] || table[-1]="FAIL ${table[-1]#ok   }"
  table[-1]+="  $differ"
}

# kill_case N WHEN SECONDS: kills the last of N ranks after so many seconds; the others must end within 5 s, not with 0.
kill_case() {
  local n=$1 when=$2 delay=$3 r code ended requests=()
  log=kill-$when
  if [ "$when" = prefill ]; then
    # Some seconds of nothing else: 2,000 prompts of 4,000 tokens.
    awk 'BEGIN { for (r = 1; r <= 2000; r++) { s = r; for (i = 1; i < 4000; i++) s = s "," r + i; print s } }' \
      >"$OUT/prompts.txt"
    requests=(-f "$OUT/prompts.txt" -n 1)
  else
    # Some seconds of nothing else: 16 prompts of 100 tokens, 3,900 steps.
    awk 'BEGIN { for (r = 1; r <= 16; r++) { s = r; for (i = 1; i < 100; i++) s = s "," r + i; print s } }' \
      >"$OUT/prompts.txt"
    requests=(-f "$OUT/prompts.txt" -n 3900)
  fi
  ranks "$n" "$SHUNT" run "$KILL_PLAN" --ids "${requests[@]}" --ignore-eos -q
  sleep "$delay"
  kill -9 "${pids[n - 1]}" 2>/dev/null || { table+=("FAIL  kill-$when  it had ended already"); return; }
  local start=$SECONDS bad=""
  for ((r = 0; r < n - 1; r++)); do
    code=0
    timeout 10 tail --pid="${pids[r]}" -f /dev/null || bad+=" rank $r still runs;"
    wait "${pids[r]}" || code=$?
    [ $code != 0 ] || bad+=" rank $r ended with 0;"
    grep -q "rank $((n - 1))" "$OUT/kill-$when.$r" || bad+=" rank $r does not name rank $((n - 1));"
  done
  ended=$((SECONDS - start))
  [ $ended -le 5 ] || bad+=" took $ended s;"
  table+=("$([ -z "$bad" ] && echo 'ok   ' || echo FAIL)  kill-$when  ($ended s)$bad  $(tail -n 1 "$OUT/kill-$when.0" | cut -c1-120)")
}

# layouts_case N: for three shapes, layouts on N GPUs beside one GPU: milliseconds a decode step of 256 tokens of context, the
# speed-up over one GPU, and that which `compile --gpus` predicts; rows as in docs/performance.md.
layouts_case() {
  local n=$1 model dir flags batch gpus log
  for model in olmoe-1b-7b qwen3-30b-a3b mixtral-8x7b; do
    dir=/tmp/shapes/$model
    mkdir -p "$dir" && cp "tests/data/configs/$model.json" "$dir/config.json"
    for gpus in $(printf '%s\n' 1 "$n" | sort -u); do
      for batch in 1 8 64; do
        "$SHUNT" compile "$dir" --dummy-weights --target sm_90a --max-model-len 4096 --gpus "$gpus" --explain --batch $batch \
          --context 256 >"$OUT/predicted-$model-$gpus-b$batch.log" 2>&1
      done
      for flags in ${LAYOUTS:-"--tp=$gpus,--etp=$gpus" "--tp=$gpus,--ep=$gpus" "--dp=$gpus,--ep=$gpus" "--dp=$gpus,--etp=$gpus"}; do
        [ "$gpus" = 1 ] && flags=--tp=1
        log=$OUT/layout-$model-$gpus-$flags.log
        timeout 280 "$SHUNT" bench "$dir" --dummy-weights --target sm_90a --max-model-len 4096 --max-num-batched-tokens 4096 \
          ${flags//,/ } -p 256 -b 1,8,64 -n 32 -r 3 >"$log" 2>&1 || echo "$model $flags: $(tail -n 1 "$log")"
        [ "$gpus" = 1 ] && break
      done
    done
    layout_rows "$model" "$n"
  done
}

# layout_rows MODEL N: what layouts_case measured and predicted of a model.
layout_rows() {
  awk -v model="$1" '
    # The mesh that --tp=2,--ep=2 stands for, as predictions print it.
    function mesh_of(flags,  a, i, v, axis) {
      split("", axis); axis["dp"] = axis["tp"] = axis["ep"] = axis["etp"] = 1
      gsub(/--/, "", flags)
      for (i = split(flags, a, ","); i > 0; --i) { split(a[i], v, "="); axis[v[1]] = v[2] }
      return "dp " axis["dp"] ", tp " axis["tp"] ", ep " axis["ep"] ", etp " axis["etp"]
    }
    FILENAME ~ /predicted-/ && /^dp / {
      batch = FILENAME; sub(/.*-b/, "", batch)
      predicted["dp " $2 " tp " $4 " ep " $6 " etp " $8, batch + 0] = $9  # $2, $4 and $6 end with a comma
    }
    FILENAME ~ /layout-/ && /^\| [a-z]/ && $4 != "target" {
      flags = FILENAME; sub(/.*-[0-9]+---/, "--", flags); sub(/\.log/, "", flags)
      order[flags] = 1
      split($0, c, "|")
      ms[flags, c[4] + 0] = c[9]
    }
    END {
      one = mesh_of("--tp=1")
      split("1 8 64", batches, " ")
      row = "| " model " | one GPU |"
      for (i = 1; i <= 3; ++i) row = row sprintf(" %.2f | |", ms["--tp=1", batches[i]])
      print row
      for (flags in order) if (flags != "--tp=1") {
        label = flags; gsub(/--/, "", label); gsub(/=/, " ", label); gsub(/,/, ", ", label)
        row = "| | " label " |"
        for (i = 1; i <= 3; ++i) {
          b = batches[i]
          if (ms[flags, b] > 0 && predicted[mesh_of(flags), b] > 0)
            row = row sprintf(" %.2f | %.2f (%.2f) |", ms[flags, b], ms["--tp=1", b] / ms[flags, b],
                              predicted[one, b] / predicted[mesh_of(flags), b])
          else row = row " failed | |"
        }
        print row
      }
    }' "$OUT"/predicted-"$1"-{1,"$2"}-b*.log "$OUT"/layout-"$1"-{1,"$2"}-*.log
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
    experts)
      while [[ ${1:-} == --* ]]; do
        timeout 300 "${EXPERT_BENCH:-build/bench/expert_bench}" $1 2>&1 | tee "$OUT/experts$(tr -d ' ' <<<"$1").log"
        shift
      done
      ;;
    attention)
      while [[ ${1:-} == --* ]]; do
        timeout 300 "${ATTENTION_BENCH:-build/bench/attention_bench}" $1 2>&1 | tee "$OUT/attention$(tr -d ' ' <<<"$1").log"
        shift
      done
      ;;
    mesh)
      while [[ ${1:-} == --* ]]; do
        for model in $MESH_MODELS; do
          [[ $model == $ONLY ]] && verify_case "$model$(tr -d ' ' <<<"$1")" "tests/data/conformance/$model" $1 $SPLIT
        done
        for dir in tests/data/deepspeed/*/; do  # with dp a gate's capacity is another than the golden's
          [[ $(basename "$dir") == $ONLY && $1 != *--dp* ]] && verify_case "$(basename "$dir")$(tr -d ' ' <<<"$1")" "$dir" $1 $SPLIT
        done
        verify_case "storyteller$(tr -d ' ' <<<"$1")" examples/storyteller --golden tests/data/storyteller/golden.json $1 $SPLIT
        check "nll$(tr -d ' ' <<<"$1")" "$SHUNT" verify examples/storyteller --target sm_90a \
          --text tests/data/storyteller/heldout.txt --tokens 16384 --window 512 $1 $SPLIT
        shift
      done
      ;;
    random)
      check "random-$1" env SHUNT_MESH_TARGET=sm_90a SHUNT_MESH_RANKS="$1" SHUNT_MESH_DRAWS="${DRAWS:-76}" \
        SHUNT_MESH_FIRST="${FIRST:-0}" "${MESHES_TEST:-build/tests/meshes_test}" --gtest_brief=1
      grep -E 'SHUNT_MESH_DRAW=|^ +Which is|draws,' "$OUT/random-$1.log" | cut -c1-300
      shift
      ;;
    routes) while [[ $# -gt 0 && (-z $1 || $1 == --*) ]]; do routes_case "$1"; shift; done ;;
    launch) launch_case "$1"; shift ;;
    kill)
      KILL_PLAN=/tmp/kill-$1.plan
      dir=/tmp/shapes/olmoe-1b-7b
      mkdir -p $dir && cp tests/data/configs/olmoe-1b-7b.json $dir/config.json
      "$SHUNT" compile $dir --dummy-weights --target sm_90a --max-model-len 4096 --ep "$1" $SPLIT -o "$KILL_PLAN" >"$OUT/kill-compile.log" 2>&1
      for when in ${KILL_AT:-load:2.5 capture:4.2 prefill:8 decode:6}; do kill_case "$1" "${when%:*}" "${when#*:}"; done
      shift
      ;;
    peers)
      check peers "${KERNELS_TEST:-build/tests/kernels_gpu_test}" --gtest_filter='PeerSumOnGpus.*' --gtest_brief=1
      ;;
    sums)
      timeout 300 "${SUM_BENCH:-build/bench/all_reduce_bench}" --ranks "$1" --kib 8,32,64,256,1024,4096 2>&1 |
        tee "$OUT/sums-$1.log"
      shift
      ;;
    layouts) layouts_case "$1"; shift ;;
    profile) while [[ ${1:-} == *:*:* ]]; do bench_case "$1" --profile -r 1; shift; done ;;
    *) echo "unknown check '$what' (see the head of $0)"; exit 2 ;;
  esac
done
[ ${#table[@]} = 0 ] || printf '%s\n' "${table[@]}"
