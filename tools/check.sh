#!/usr/bin/env bash
# The checks of `./bench test`, in the environment that it made.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" MPLBACKEND=agg JUPYTER_PLATFORM_DIRS=1
step() { printf '\n== %s (%ss)\n' "$1" "$SECONDS"; }

step "browser"
if ! command -v chromium >/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; then echo "Chromium installed"
    elif [ "${CI:-}" = true ]; then echo "Chromium is missing and could not be installed"; exit 1
    else echo "no Chromium, and no right to install it: the browser tests will be skipped (on Debian: apt-get install chromium)"; fi
fi

step "format and lint"
bash tools/style.sh --check
step "the real model"
if [ "${CI:-}" = true ]; then spurious-rlvr fetch smollm2-135m
else spurious-rlvr fetch smollm2-135m || echo "the tests on a real model will be skipped"; fi
step "export, notebooks and README in step"
python tools/drift.py
step "types"
python -m mypy
step "reference notebooks run" # .ci/full runs the tutorials
nbdev_test --n_workers 2 --timing --skip_folder_re "^([_.]|tutorials)"
step "pages of the site"
python tools/check_site.py
step "tests"
# What fails is tried once more by itself: on a machine that works for others, too, a browser may wait for minutes.
# A test that fails twice has failed.
once_more() { # the command, then what only its first try has
    local tests=("${@:1:$#-1}")
    "${tests[@]}" ${!#} || {
        step "tests that failed, once more"
        "${tests[@]}" --last-failed --last-failed-no-failures none
    }
}
# One thread a process, two processes, each file in one of them.
OMP_NUM_THREADS=1 once_more python -m pytest -m "not slow and not vllm" "-n 2 --dist loadfile"
step "a real vLLM on the CPU"
bash tools/vllm_env.sh
once_more .venv-vllm/bin/python -m pytest -m vllm tests/test_vllm.py tests/test_live_prompt_vllm.py ""
step "the wheel, in an empty environment and another folder"
bash tools/check_wheel.sh
step "done"
