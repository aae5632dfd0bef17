#!/usr/bin/env bash
# Everything that docs/performance.md and the front page show; half an hour on two quiet cores.
#   benchmarks/run_cpu.sh [--output FOLDER] [PYTHON]
# benchmarks/results/cpu, the default, is the machine of the documents, which are brought up to date. Another
# folder, such as benchmarks/results/cpu-avx2, holds another machine beside it; read its summary.md.
# Peers: pip install '.[bench]'; for its row of the drop-in also pip install --no-deps ultralytics.
set -euo pipefail
cd "$(dirname "$0")/.."
shown=benchmarks/results/cpu
output=$shown
if [[ ${1:-} == --output ]]; then
  output=${2%/}
  shift 2
fi
python=${1:-python}
export OMP_NUM_THREADS=2

"$python" -m benchmarks.run_all --output "$output"
"$python" -m benchmarks.scan --output "$output"
"$python" -m benchmarks.padded_inputs --output "$output"
"$python" -m benchmarks.profile_cpu --output "$output"
"$python" -m benchmarks.report "$output" > "$output/summary.md"
"$python" -m benchmarks.html_report "$output/results.json" --output "$output/report.html"
if [[ $output == "$shown" ]]; then
  "$python" -m benchmarks.report "$output" docs/performance.md
fi
