#!/usr/bin/env bash
# Formats and lints the sources: tools/style.sh [--check]. With --check nothing is changed, and what is out of form fails.
# The exported modules follow from the notebooks and are left out; the rules are in pyproject.toml.
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in
    "") format=() lint=(--fix) ;;
    --check) format=(--check) lint=() ;;
    *) sed -n '2,3s/^# //p' "$0" >&2; exit 2 ;;
esac
python -m ruff check "${lint[@]}" .
python -m ruff format "${format[@]}" .
python -m ruff format "${format[@]}" --line-length 88 nbs/index.ipynb nbs/tutorials/*.ipynb
