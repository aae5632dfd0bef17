#!/usr/bin/env bash
# The first hour of a GPU: everything that waits for one, offline, with the torch that is installed. One GPU is
# enough. Each step ends within 8 minutes and says what it skipped; what matters most comes first, and each
# measurement is written when it is taken: a run that is cut leaves what it has.
#
#   benchmarks/run_cuda.sh                  all steps
#   benchmarks/run_cuda.sh test bench       only these, of: build test bench sweep model memcheck racecheck
#                                           profile initcheck
#   BUDGET=540 benchmarks/run_cuda.sh       ends within 540 seconds: steps are cut short or left out
#   benchmarks/run_cuda.sh --dry-run [...]  on a machine without a GPU, in a checkout that is built: runs what
#                                           can run, says what cannot
#
# PYTHON names the interpreter, OUT the folder of the results (default: benchmarks/results): <gpu>.json, its
# summary <gpu>.md, pictures, and <gpu>.log, all that was printed. A dry run leaves its own in
# build/cuda-dry-run, if OUT says nothing else.
set -uo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
LIMIT=480           # seconds of a step
BUDGET=${BUDGET:-0} # seconds of all; 0: as long as it takes
PROBE=90            # seconds of finding out whether a tool works here
DRY_RUN=0
if [[ ${1:-} == --dry-run ]]; then
  DRY_RUN=1
  shift
fi
ALL_STEPS=(build test bench sweep model memcheck racecheck profile initcheck)
STEPS=("$@")
[[ ${#STEPS[@]} -eq 0 ]] && STEPS=("${ALL_STEPS[@]}")
FAILED=()

# Runs a command for at most what is left of its step's LIMIT and remembers its failure.
run() {
  local left=$((DEADLINE - SECONDS))
  echo "+ $*"
  if ((left <= 0)); then
    FAILED+=("no time left: $*")
    return
  fi
  timeout --kill-after 10 "$left" "$@" || FAILED+=("$*")
}

step_build() {
  if [[ $DRY_RUN == 1 ]]; then
    # The same command, into a folder of its own and compiling what this machine can compile.
    local package=build/cuda-dry-run/package
    run "$PYTHON" -m pip install --no-build-isolation --no-deps --quiet --upgrade --target $package .
    run env --chdir=$package "$PYTHON" -m fastrpn info
  else
    run env FASTRPN_CUDA=1 "$PYTHON" -m pip install --no-build-isolation --no-deps --editable .
    run "$PYTHON" -m fastrpn info
  fi
}

# Without a GPU the tests that compare results run on the CPU, and the others are skipped. A process for each file: one
# that dies takes no other's results along.
step_test() {
  local device=cuda file
  [[ $DRY_RUN == 1 ]] && device=cpu
  for file in tests/cuda/test_{results,ops,model}.py; do
    run env FASTRPN_TEST_DEVICE=$device "$PYTHON" -m pytest -q --tb=short -m cuda "$file"
  done
}

# Times beside torchvision's and beside the predictions of benchmarks/cuda_predictions.py.
step_bench() {
  run "$PYTHON" -m benchmarks.cuda_ops ops "${MEASURE[@]}"
  report
}

step_model() {
  run "$PYTHON" -m benchmarks.cuda_ops model "${MEASURE[@]}"
  report
}

# Other values of the constants that were chosen by counting.
step_sweep() {
  run "$PYTHON" -m benchmarks.cuda_sweep "${MEASURE[@]}"
  report
}

# Runs a tool of compute-sanitizer on every op in every dtype and layout, without torch's cache of memory,
# which hides overruns.
sanitize() {
  if [[ $DRY_RUN == 1 ]]; then
    echo "skipped: compute-sanitizer needs a GPU"
  elif ! command -v compute-sanitizer > /dev/null; then
    echo "skipped: compute-sanitizer is not installed"
  elif ! timeout "$PROBE" compute-sanitizer --error-exitcode 9 "$PYTHON" -c \
    'import torch; torch.zeros(1).cuda()'; then
    echo "skipped: compute-sanitizer does not work on this machine (its message is above)"
  else
    run env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$1" --error-exitcode 9 \
      "$PYTHON" -m pytest -q -m cuda tests/cuda/test_results.py -k "not 20000"
  fi
}

step_memcheck() { sanitize memcheck; }
step_racecheck() { sanitize racecheck; }
step_initcheck() { sanitize initcheck; }

# The time of each kernel by torch's profiler; what limits it by ncu, where that works.
step_profile() {
  local options=()
  run "$PYTHON" -m benchmarks.cuda_profile "${MEASURE[@]}"
  if [[ $DRY_RUN == 1 ]]; then
    run "$PYTHON" -m benchmarks.cuda_profile --dry-run --once
    echo "skipped: ncu needs a GPU"
  elif ! command -v ncu > /dev/null; then
    echo "skipped: ncu is not installed"
  elif ! timeout "$PROBE" ncu -c 1 "$PYTHON" -c 'import torch; torch.zeros(1).cuda()'; then
    echo "skipped: ncu does not work on this machine (its message is above)"
  else
    run ncu --profile-from-start off --set basic --csv --log-file "${FILE}_ncu.csv" \
      "$PYTHON" -m benchmarks.cuda_profile --once
    run "$PYTHON" -m benchmarks.cuda_profile "${MEASURE[@]}" --ncu "${FILE}_ncu.csv"
  fi
  report
}

# What has been measured so far, as Markdown and pictures; even where the step had no time left.
report() {
  [[ -f $FILE.json ]] || return
  echo "+ report"
  timeout --kill-after 10 60 "$PYTHON" -m benchmarks.cuda_report "$FILE.json" || FAILED+=("report")
  timeout --kill-after 10 60 "$PYTHON" -m benchmarks.html_report "$FILE.json" --output "$FILE.html" ||
    FAILED+=("report in HTML")
}

for step in "${STEPS[@]}"; do
  if [[ " ${ALL_STEPS[*]} " != *" $step "* ]]; then
    echo "unknown step $step; there are: ${ALL_STEPS[*]}"
    exit 2
  fi
done
if [[ $DRY_RUN == 0 ]] && ! "$PYTHON" -c 'import torch; assert torch.cuda.is_available()' 2> /dev/null; then
  echo "torch finds no GPU: only --dry-run works here"
  exit 2
fi

# The file of the results, without its suffix.
if [[ $DRY_RUN == 1 ]]; then
  FILE=${OUT:-build/cuda-dry-run}/dry-run
  MEASURE=(--output "$FILE.json" --dry-run)
else
  FILE=${OUT:-benchmarks/results}/$("$PYTHON" -m benchmarks.cuda_results)
  MEASURE=(--output "$FILE.json")
fi
mkdir -p "$(dirname "$FILE")"
exec > >(tee -a "$FILE.log") 2>&1

for step in "${STEPS[@]}"; do
  DEADLINE=$((SECONDS + LIMIT))
  if ((BUDGET > 0 && DEADLINE > BUDGET)); then DEADLINE=$BUDGET; fi
  echo "== $step, after $SECONDS s"
  if ((SECONDS + 5 > DEADLINE)); then
    FAILED+=("no time left: $step")
    continue
  fi
  "step_$step"
done

if [[ ${#FAILED[@]} -gt 0 ]]; then
  printf 'failed: %s\n' "${FAILED[@]}"
  exit 1
fi
echo "all steps done in $SECONDS s"
