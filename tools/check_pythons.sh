#!/usr/bin/env bash
# The part that needs no torch, on other Pythons: tools/check_pythons.sh [3.12 3.13 …]
# Each gets an empty environment with the dependency group "light" of pyproject.toml and the built wheel, without its other dependencies.
set -euo pipefail
cd "$(dirname "$0")/.."
here=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tests=(tests/test_{behavior,clip_measured,clipbias,compare,explorer,grading,old_runs,rewards,runs,tasks}.py)
[ $# -gt 0 ] || set -- 3.12 3.13

find_python() {
    for python in "python$1" "$HOME/.pyenv/versions/$1".*/bin/python; do
        if "$python" -c "import sys, venv, ensurepip; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then echo "$python"; return; fi
    done
    echo "check_pythons: no Python $1 with venv here" >&2; return 1
}

python -m build --outdir "$work/dist" . >"$work/build.log" 2>&1 || { tail -20 "$work/build.log"; exit 1; }
cp -r tests benchmarks pyproject.toml "$work"
for version in "$@"; do
    printf '\n== Python %s\n' "$version"
    "$(find_python "$version")" -m venv "$work/$version"
    python="$work/$version/bin/python"
    "$python" - "$here/pyproject.toml" > "$work/light.txt" <<'PYTHON'
import sys, tomllib
print(*tomllib.loads(open(sys.argv[1], encoding="utf-8").read())["dependency-groups"]["light"], "pytest", "hypothesis", sep="\n")
PYTHON
    "$python" -m pip install -q --disable-pip-version-check -c "$here/constraints.txt" -r "$work/light.txt"
    "$python" -m pip install -q --disable-pip-version-check --no-deps "$work"/dist/*.whl
    (
        cd "$work"
        unset PYTHONPATH SPURIOUS_RLVR_DATA
        export MPLBACKEND=agg OMP_NUM_THREADS=1
        "$python" -c "import importlib.util, spurious_rlvr; assert importlib.util.find_spec('torch') is None and '$version/lib' in spurious_rlvr.__file__, spurious_rlvr.__file__"
        "$python" -m pytest -p no:cacheprovider --durations=3 -m "not slow and not vllm and not browser" --deselect tests/test_tasks.py::test_the_same_rows_in_every_format_are_the_same_problems --deselect tests/test_tasks.py::test_a_set_that_is_not_there_is_one_line "${tests[@]}" # those two read sets on the hub, with datasets
    )
done
