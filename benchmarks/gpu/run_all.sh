#!/usr/bin/env bash
# What a GPU gives in a few minutes: benchmarks/gpu/run_all.sh [MINUTES] [SCRIPT ...]
# The scripts, by default all, run one after the other in the order of their worth. The first five have MINUTES (8) to
# share, and the other three what is left, until there is enough for all. Each begins no case when its time is over, and
# whatever stops it, its result holds the cases before. Nothing need be installed; what `carry.py join` brought is found.
# RESULTS=FOLDER takes the results (benchmarks/results); CARRIED=FOLDER is where `carry.py join` put things.
# REHEARSE=1 tries everything on the CPU with tiny shapes, under a Python that lacks what a bare GPU machine lacks.
set -uo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3} carried=${CARRIED:-/tmp/spurious_rlvr} folder=${RESULTS:-benchmarks/results}
first=(correctness update_speed sampler_speed memory real_model) then=(phase_against_trl clip_binds organism_demo)
declare -A share=( # seconds where 8.5 minutes are shared
    [correctness]=60 [update_speed]=180 [sampler_speed]=90 [memory]=60 [real_model]=120
    [phase_against_trl]=90 [clip_binds]=60 [organism_demo]=60
)

total=$(awk "BEGIN { print int(60 * ${1:-8}) }")
shift
scripts=("${@:-${first[@]}}") failed=0 common=() prefix=gpu_ shares=0 shares_of_first=0
[ $# -gt 0 ] || scripts+=("${then[@]}")
for name in "${scripts[@]}"; do
    if [ -z "${share[$name]:-}" ]; then echo "run_all.sh: no script $name; there are ${first[*]} ${then[*]}" >&2; exit 2; fi
    shares=$(( shares + share[$name] ))
    case " ${first[*]} " in *" $name "*) shares_of_first=$(( shares_of_first + share[$name] ));; esac
done
percent=$(( 100 * total / (shares_of_first ? shares_of_first : shares) ))
if [ "$percent" -gt 100 ]; then percent=$(( 100 * total > 100 * shares ? 100 * total / shares : 100 )); fi

export PYTHONPATH="$PWD:$carried/site:${PYTHONPATH:-}" PYTHONUNBUFFERED=1
if [ -d "$carried/cache" ]; then export SPURIOUS_RLVR_CACHE=$carried/cache; fi
if [ -n "${REHEARSE:-}" ]; then
    folder=${RESULTS:-$(mktemp -d)} common=(--rehearse) prefix=rehearsal_
    "$python" benchmarks/gpu/carry.py pretend "$folder/pretence" --to "$carried" || exit 1
    export PYTHONPATH="$folder/pretence:$PYTHONPATH"
fi
mkdir -p "$folder"
end=$(( $(date +%s) + total ))

for name in "${scripts[@]}"; do
    left=$(( end - $(date +%s) )) most=$(( share[$name] * percent / 100 ))
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
