#!/usr/bin/env bash
# Builds the wheel, installs it into an empty environment, and uses it from another folder.
set -euo pipefail
cd "$(dirname "$0")/.."
here=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python -m build --wheel --outdir "$work" . >"$work/build.log" 2>&1 || { tail -20 "$work/build.log"; exit 1; }
python -m venv "$work/env"
"$work/env/bin/python" -m pip install -q --disable-pip-version-check -c "$here/constraints.txt" "$work"/*.whl
cd "$work"
env -u PYTHONPATH "$work/env/bin/python" - <<'PYTHON'
import importlib.resources, pathlib, sys
import spurious_rlvr
from spurious_rlvr import organisms, tasks
assert pathlib.Path(spurious_rlvr.__file__).is_relative_to(sys.prefix), spurious_rlvr.__file__
shipped = importlib.resources.files("spurious_rlvr")
assert (shipped/"static"/"report.css").is_file() and (shipped/"py.typed").is_file()
assert list((shipped/"tutorials").glob("*.ipynb")), "the tutorials did not reach the wheel"
for name in organisms.RECIPES: organisms.load(name)
print("the wheel holds", spurious_rlvr.__version__, "with", ", ".join(organisms.RECIPES))
PYTHON
time env -u PYTHONPATH "$work/env/bin/spurious-rlvr" demo --quick --out "$work/demo"
test -s "$work/demo/report.html"
