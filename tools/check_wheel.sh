#!/usr/bin/env bash
# Builds sdist and wheel, compares what they hold, installs the wheel into an empty environment and uses it from another folder:
# tools/check_wheel.sh [FOLDER to keep both in]. EXTRAS=peft,lab installs and imports those too.
set -euo pipefail
cd "$(dirname "$0")/.."
here=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python -m build --outdir "$work/dist" . >"$work/build.log" 2>&1 || { tail -20 "$work/build.log"; exit 1; } # the wheel is built from the sdist
python - "$here" "$work"/dist/*.tar.gz "$work"/dist/*.whl <<'PYTHON'
import sys, tarfile, zipfile
from pathlib import Path
root, sdist, wheel = sys.argv[1:]
package = Path(root, "spurious_rlvr")
kept = lambda p: p.is_file() and "__pycache__" not in p.parts and ".ipynb_checkpoints" not in p.parts and not p.name.startswith(".")
files = [p for folder in (package, package/"static", package/"tutorials", *(package/"weights").iterdir()) if folder.is_dir() for p in folder.iterdir() if kept(p)]
wanted = {f"spurious_rlvr/{p.relative_to(package)}": p.read_bytes() for p in files}
with zipfile.ZipFile(wheel) as archive:
    names = [n for n in archive.namelist() if not n.endswith("/")]
    metadata = [n for n in names if ".dist-info/" in n]
    in_wheel = {n: archive.read(n) for n in names if n not in metadata}
with tarfile.open(sdist) as archive:
    members = {m.name.partition("/")[2]: m for m in archive.getmembers()}
    linked = [n for n, m in members.items() if m.issym() or m.islnk()]
    in_sdist = {n: archive.extractfile(m).read() for n, m in members.items() if m.isfile()}
faults = [f"{n}: links do not travel in an sdist" for n in linked]
for name, where in (("the wheel", in_wheel), ("the sdist", in_sdist)):
    faults += [f"{n}: is not in {name} as it is here" for n in wanted if where.get(n) != wanted[n]]
faults += [f"{n}: is in the wheel and not wanted" for n in in_wheel if n not in wanted]
faults += [f"licenses/{n}: is not in the wheel" for n in ("LICENSE", "NOTICE") if not any(m.endswith(f"/licenses/{n}") for m in metadata)]
faults += [f"{n}: is not in the sdist" for n in ("LICENSE", "NOTICE", "CITATION.cff", "CHANGELOG.md", "tests/test_project.py", "constraints.txt") if n not in in_sdist]
if faults: sys.exit("\n".join(faults))
print(f"sdist and wheel hold the same {len(wanted)} files; wheel {Path(wheel).stat().st_size/2**20:.1f} MiB, sdist {Path(sdist).stat().st_size/2**20:.1f} MiB")
PYTHON
python -m venv "$work/env"
wheel=$(echo "$work"/dist/*.whl)
"$work/env/bin/python" -m pip install -q --disable-pip-version-check -c "$here/constraints.txt" "$wheel${EXTRAS:+[$EXTRAS]}"
cd "$work"
env -u PYTHONPATH "$work/env/bin/python" - <<'PYTHON'
import importlib.resources, os, pathlib, sys
import spurious_rlvr
from spurious_rlvr import organisms
assert pathlib.Path(spurious_rlvr.__file__).is_relative_to(sys.prefix), spurious_rlvr.__file__
assert (importlib.resources.files("spurious_rlvr")/"py.typed").is_file()
for name in organisms.RECIPES: organisms.load(name)
for extra in filter(None, os.environ.get("EXTRAS", "").split(",")): __import__({"lab": "jupyterlab"}.get(extra, extra))
print("the wheel holds", spurious_rlvr.__version__, "with", ", ".join(organisms.RECIPES))
PYTHON
run() { env -u PYTHONPATH "$work/env/bin/spurious-rlvr" "$@"; }
run lab "$work/tutorials" --copy-only
ls "$work/tutorials"/*.ipynb >/dev/null
time run demo --quick --out "$work/demo"
test -s "$work/demo/report.html"
if [ $# -gt 0 ]; then mkdir -p "$here/$1" && cp "$work"/dist/* "$here/$1"; fi
