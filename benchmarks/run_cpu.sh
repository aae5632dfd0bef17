#!/usr/bin/env bash
# Everything that docs/performance.md and the front page show; half an hour on two quiet cores.
#   benchmarks/run_cpu.sh [PYTHON]
# Peers: pip install lsnms powerboxes; and ultralytics (with --no-deps) for its row of the drop-in.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python}
output=benchmarks/results/cpu
export OMP_NUM_THREADS=2

"$python" -m benchmarks.run_all --output "$output"
"$python" -m benchmarks.scan --output "$output"
"$python" -m benchmarks.report "$output" docs/performance.md
