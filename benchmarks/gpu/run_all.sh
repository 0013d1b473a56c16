#!/usr/bin/env bash
# All figures of one GPU: benchmarks/gpu/run_all.sh [MINUTES] [FOLDER]
# The scripts run one after the other, each in the time that is left; what a script does not reach is said and left out.
# MINUTES (default 60) bounds the whole; FOLDER (default benchmarks/results) takes the results.
# SHAPE=0.5b|1.5b|7b chooses the shape of memory.py and phase_against_trl.py; by default what the GPU's memory allows.
# REHEARSE=1 tries everything on the CPU with tiny shapes and writes into a temporary folder.
set -uo pipefail
cd "$(dirname "$0")/../.."
minutes=${1:-60} folder=${2:-benchmarks/results} python=${PYTHON:-python}
end=$(( $(date +%s) + minutes * 60 ))
common=()
if [ -n "${REHEARSE:-}" ]; then folder=$(mktemp -d); common=(--rehearse); fi
mkdir -p "$folder"

gib=$("$python" -c 'import sys; sys.path.insert(0, "benchmarks/gpu"); import common; gpu = common.find_gpu(); print(int(gpu["memory_gib"]) if gpu else 0)')
shape=${SHAPE:-$([ "$gib" -ge 130 ] && echo 7b || { [ "$gib" -ge 60 ] && echo 1.5b || echo 0.5b; })}
engine=$("$python" -c 'import importlib.util as u; print("vllm" if u.find_spec("vllm") else "transformers")')
[ -n "${REHEARSE:-}" ] && engine=transformers
failed=0

measure() { # name, most minutes, script's further options
  local name=$1 most=$(( $2 * 60 )) left=$(( end - $(date +%s) )) prefix=gpu_
  shift 2
  [ -n "${REHEARSE:-}" ] && prefix=rehearsal_
  if [ "$left" -lt 60 ]; then echo "$name: not reached, the time is up"; failed=1; return; fi
  echo "== $name, at most $(( (left < most ? left : most) / 60 )) minutes"
  timeout "$(( left < most ? left : most ))" "$python" "benchmarks/gpu/$name.py" "${common[@]}" --json "$folder/$prefix$name.json" "$@" > "$folder/.$name.out"
  local status=$?
  rm -f "$folder/.$name.out"
  if [ "$status" -ne 0 ]; then echo "$name: ended with status $status ($([ "$status" -eq 124 ] && echo 'its time was up' || echo 'see above'))"; failed=1; fi
}

# What is cheap and what everything else rests on comes first; the demo is by far the longest part of correctness, so its short form runs first.
measure correctness 10 --demo quick
measure update_speed 8
measure memory 6 --shape "$shape"
measure rollout_speed 6 --engine "$engine"
measure phase_against_trl 10 --shape "$([ "$shape" = 0.5b ] && echo 0.5b || echo 1.5b)" --engine "$engine" --repeats 3
measure clip_binds 6
echo "results in $folder"
exit "$failed"
