#!/usr/bin/env bash
# What a GPU gives in a few minutes: benchmarks/gpu/run_all.sh [MINUTES] [SCRIPT ...]
# The scripts, by default all, run one after the other in the order of their worth. The first five share MINUTES (8) among
# themselves; the others have what is left. Each begins no case when its time is over, and whatever stops it, its result
# holds the cases before. Nothing need be installed; what `carry.py join` brought is found.
# RESULTS=FOLDER takes the results (benchmarks/results); CARRIED=FOLDER is where `carry.py join` put things.
# REHEARSE=1 tries everything on the CPU with tiny shapes, under a Python that lacks what a bare GPU machine lacks.
set -uo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3} carried=${CARRIED:-/tmp/spurious_rlvr} folder=${RESULTS:-benchmarks/results}
declare -A share=([correctness]=10 [update_speed]=30 [sampler_speed]=15 [memory]=10 [real_model]=20)
all=(correctness update_speed sampler_speed memory real_model phase_against_trl clip_binds organism_demo)

total=$(awk "BEGIN { print int(60 * ${1:-8}) }") && shift
scripts=("${@:-${all[@]}}") shares=0 failed=0 common=() prefix=gpu_
for name in "${scripts[@]}"; do shares=$(( shares + ${share[$name]:-0} )); done
export PYTHONPATH="$PWD:$carried/site:${PYTHONPATH:-}" PYTHONUNBUFFERED=1
if [ -d "$carried/cache" ]; then export SPURIOUS_RLVR_CACHE=$carried/cache; fi
if [ -n "${REHEARSE:-}" ]; then
    folder=${RESULTS:-$(mktemp -d)} common=(--rehearse) prefix=rehearsal_
    "$python" benchmarks/gpu/carry.py pretend "$folder/pretence" --to "$carried"
    export PYTHONPATH="$folder/pretence:$PYTHONPATH"
fi
mkdir -p "$folder"
end=$(( $(date +%s) + total ))

for name in "${scripts[@]}"; do
    left=$(( end - $(date +%s) ))
    most=$(( shares && ${share[$name]:-0} ? total * ${share[$name]:-0} / shares : left ))
    if [ "$most" -gt "$left" ]; then most=$left; fi
    if [ "$left" -lt 15 ]; then echo "== $name: not reached, the time is up"; failed=1; continue; fi
    echo "== $name, $most seconds"
    timeout -k 5 "$(( most + 20 < left ? most + 20 : left ))" "$python" "benchmarks/gpu/$name.py" "${common[@]}" \
        --minutes "$(awk "BEGIN { print $most / 60 }")" --json "$folder/$prefix$name.json"
    status=$?
    if [ "$status" -ne 0 ]; then echo "$name: ended with status $status"; failed=1; fi
done
echo "results in $folder"
exit "$failed"
