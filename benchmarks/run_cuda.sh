#!/usr/bin/env bash
# Everything that waits for an NVIDIA GPU, offline, with the torch that is installed. Each step ends within
# 8 minutes and says what it skipped.
#
#   benchmarks/run_cuda.sh            all steps
#   benchmarks/run_cuda.sh test bench only these: build test sanitize bench
#   benchmarks/run_cuda.sh --dry-run  on a machine without a GPU: runs what can run, says what cannot
set -uo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
DRY_RUN=0
if [[ ${1:-} == --dry-run ]]; then
  DRY_RUN=1
  shift
fi
STEPS=("$@")
[[ ${#STEPS[@]} -eq 0 ]] && STEPS=(build test sanitize bench)
FAILED=()

# Runs a command for at most 8 minutes and remembers its failure.
run() {
  echo "+ $*"
  timeout 480 "$@" || FAILED+=("$*")
}

step_build() {
  if [[ $DRY_RUN == 1 ]]; then
    run "$PYTHON" -c "import fastrpn.ops; print('fastrpn is built')"
  else
    run env FASTRPN_CUDA=1 "$PYTHON" -m pip install --no-build-isolation --no-deps --editable .
  fi
}

step_test() {
  run "$PYTHON" -m pytest -q -m cuda tests/cuda
}

step_sanitize() {
  if ! command -v compute-sanitizer > /dev/null; then
    echo "skipped: compute-sanitizer is not installed"
  elif [[ $DRY_RUN == 1 ]]; then
    echo "skipped: compute-sanitizer needs a GPU"
  else
    for tool in memcheck racecheck initcheck; do
      run compute-sanitizer --tool "$tool" --error-exitcode 9 \
        "$PYTHON" -m pytest -q -m cuda tests/cuda -k "equals_the_cpu or keeps_the_rows"
    done
  fi
}

step_bench() {
  if [[ $DRY_RUN == 1 ]]; then
    run "$PYTHON" -m benchmarks.cuda_ops --dry-run
  else
    run "$PYTHON" -m benchmarks.cuda_ops
  fi
}

for step in "${STEPS[@]}"; do
  echo "== $step"
  "step_$step"
done

if [[ ${#FAILED[@]} -gt 0 ]]; then
  printf 'failed: %s\n' "${FAILED[@]}"
  exit 1
fi
echo "all steps done"
