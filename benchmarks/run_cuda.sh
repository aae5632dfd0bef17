#!/usr/bin/env bash
# Everything that waits for an NVIDIA GPU, offline, with the torch that is installed. Each step ends within
# 8 minutes and says what it skipped.
#
#   benchmarks/run_cuda.sh                  all steps
#   benchmarks/run_cuda.sh test bench       only these, of: build test memcheck racecheck initcheck bench model
#                                           report
#   benchmarks/run_cuda.sh --dry-run [...]  on a machine without a GPU: runs what can run, says what cannot
#
# PYTHON names the interpreter. The results are benchmarks/results/<gpu>/: two JSON files, pictures and
# summary.md. A dry run leaves its own in build/cuda-dry-run.
set -uo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
LIMIT=480 # seconds
DRY_RUN=0
if [[ ${1:-} == --dry-run ]]; then
  DRY_RUN=1
  shift
fi
ALL_STEPS=(build test memcheck racecheck initcheck bench model report)
STEPS=("$@")
[[ ${#STEPS[@]} -eq 0 ]] && STEPS=("${ALL_STEPS[@]}")
FAILED=()

# Runs a command for at most LIMIT seconds and remembers its failure.
run() {
  echo "+ $*"
  timeout "$LIMIT" "$@" || FAILED+=("$*")
}

# The folder of the results.
results() {
  if [[ $DRY_RUN == 1 ]]; then
    echo build/cuda-dry-run
  else
    "$PYTHON" -c 'import torch; print("benchmarks/results/" +
      torch.cuda.get_device_name().replace(" ", "-").lower())'
  fi
}

step_build() {
  if [[ $DRY_RUN == 1 ]]; then
    # The same command, into a folder of its own and compiling what this machine can compile.
    run "$PYTHON" -m pip install --no-build-isolation --no-deps --quiet --upgrade \
      --target build/cuda-dry-run/package .
  else
    run env FASTRPN_CUDA=1 "$PYTHON" -m pip install --no-build-isolation --no-deps --editable .
  fi
  run "$PYTHON" -m fastrpn info
}

# Without a GPU these tests are collected and skipped: that shows that they can be imported.
step_test() {
  run "$PYTHON" -m pytest -q -m cuda tests/cuda
}

# Runs a tool of compute-sanitizer on the op tests, without torch's cache of memory, which hides overruns.
sanitize() {
  if [[ $DRY_RUN == 1 ]]; then
    echo "skipped: compute-sanitizer needs a GPU"
  elif ! command -v compute-sanitizer > /dev/null; then
    echo "skipped: compute-sanitizer is not installed"
  elif ! compute-sanitizer --error-exitcode 9 "$PYTHON" -c 'import torch; torch.zeros(1).cuda()'; then
    echo "skipped: compute-sanitizer does not work on this machine (its message is above)"
  else
    run env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$1" --error-exitcode 9 \
      "$PYTHON" -m pytest -q -m cuda tests/cuda/test_ops.py -k "equals_the_cpu and not 20000"
  fi
}

step_memcheck() { sanitize memcheck; }
step_racecheck() { sanitize racecheck; }
step_initcheck() { sanitize initcheck; }

bench() {
  local options=(--output "$(results)/$1.json")
  [[ $DRY_RUN == 1 ]] && options+=(--dry-run)
  run "$PYTHON" -m benchmarks.cuda_ops "$1" "${options[@]}"
}

step_bench() { bench ops; }
step_model() { bench model; }

step_report() {
  run "$PYTHON" -m benchmarks.cuda_report "$(results)"
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
  "step_$step"
done

if [[ ${#FAILED[@]} -gt 0 ]]; then
  printf 'failed: %s\n' "${FAILED[@]}"
  exit 1
fi
echo "all steps done"
