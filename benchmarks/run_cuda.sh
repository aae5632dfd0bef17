#!/usr/bin/env bash
# Everything that waits for an NVIDIA GPU, offline, with the torch that is installed. Each step ends within
# 8 minutes and says what it skipped.
#
#   benchmarks/run_cuda.sh                  all steps
#   benchmarks/run_cuda.sh test bench       only these, of: build test memcheck racecheck initcheck bench model
#                                           profile report
#   benchmarks/run_cuda.sh --dry-run [...]  on a machine without a GPU, in a checkout that is built: runs what
#                                           can run, says what cannot
#
# PYTHON names the interpreter, OUT the folder of the results (default: benchmarks/results): <gpu>.json, its
# summary <gpu>.md and pictures. A dry run leaves its own in build/cuda-dry-run, if OUT says nothing else.
set -uo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
LIMIT=480 # seconds of a step
PROBE=90  # seconds of finding out whether a tool works here
DRY_RUN=0
if [[ ${1:-} == --dry-run ]]; then
  DRY_RUN=1
  shift
fi
ALL_STEPS=(build test memcheck racecheck initcheck bench model profile report)
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

# The file of the results, without its suffix.
results() {
  if [[ $DRY_RUN == 1 ]]; then
    echo "${OUT:-build/cuda-dry-run}/dry-run"
  else
    echo "${OUT:-benchmarks/results}/$("$PYTHON" -m benchmarks.cuda_results)"
  fi
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

# Without a GPU the tests that compare results run on the CPU, and the others are skipped.
step_test() {
  local device=cuda
  [[ $DRY_RUN == 1 ]] && device=cpu
  run env FASTRPN_TEST_DEVICE=$device "$PYTHON" -m pytest -q -m cuda tests/cuda
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

bench() {
  local options=(--output "$(results).json")
  [[ $DRY_RUN == 1 ]] && options+=(--dry-run)
  run "$PYTHON" -m benchmarks.cuda_ops "$1" "${options[@]}"
}

step_bench() { bench ops; }
step_model() { bench model; }

# The time of each kernel by torch's profiler; what limits it by ncu, where that works.
step_profile() {
  local file options=()
  file=$(results)
  mkdir -p "$(dirname "$file")"
  if [[ $DRY_RUN == 1 ]]; then
    options+=(--dry-run)
    run "$PYTHON" -m benchmarks.cuda_profile --dry-run --once
    echo "skipped: ncu needs a GPU"
  elif ! command -v ncu > /dev/null; then
    echo "skipped: ncu is not installed"
  elif ! timeout "$PROBE" ncu -c 1 "$PYTHON" -c 'import torch; torch.zeros(1).cuda()'; then
    echo "skipped: ncu does not work on this machine (its message is above)"
  else
    run ncu --profile-from-start off --set basic --csv --log-file "${file}_ncu.csv" \
      "$PYTHON" -m benchmarks.cuda_profile --once
    options+=(--ncu "${file}_ncu.csv")
  fi
  run "$PYTHON" -m benchmarks.cuda_profile "${options[@]}" --output "$file.json"
}

step_report() {
  run "$PYTHON" -m benchmarks.cuda_report "$(results).json"
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
for step in "${STEPS[@]}"; do
  echo "== $step"
  DEADLINE=$((SECONDS + LIMIT))
  "step_$step"
done

if [[ ${#FAILED[@]} -gt 0 ]]; then
  printf 'failed: %s\n' "${FAILED[@]}"
  exit 1
fi
echo "all steps done"
