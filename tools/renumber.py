#!/usr/bin/env python3
"""Numbers the notebooks of the rooms 00, 01, 02, … in the order of their names, and moves every link to them.

A new room is put in its place with a letter, such as nbs/08b_placement.ipynb behind 08_rollout, and this run once: the
later ones move up. Addresses of pages do not change, since nbdev takes the number off.
"""

import json
import re
import subprocess
from pathlib import Path

root = Path(__file__).resolve().parent.parent
rooms = sorted(p.stem for p in (root / "nbs").glob("[0-9]*_*.ipynb"))
moved = {old: new for i, old in enumerate(rooms) if old != (new := f"{i:02d}_{old.partition('_')[2]}")}
if not moved:
    raise SystemExit("the rooms are in order")

waiting = {old: root / "nbs" / f"{new}.ipynb.moving" for old, new in moved.items()}  # 09 may be the old name of another
for old, place in waiting.items():
    (root / "nbs" / f"{old}.ipynb").rename(place)
for place in waiting.values():
    place.rename(place.with_suffix(""))

names = re.compile(rf"(?<![\w])({'|'.join(map(re.escape, moved))})(?![\w])")
tracked = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True).stdout.split("\n")
for path in {root / name for name in tracked if name} | set((root / "nbs").glob("*.ipynb")):
    if path.suffix not in (".ipynb", ".md", ".py", ".toml", ".yml", ".sh") and path.name != "NOTICE":
        continue
    if path.is_symlink() or not path.is_file() or path.is_relative_to(root / "spurious_rlvr") or path == Path(__file__):
        continue
    text = path.read_text()
    if path.suffix == ".ipynb":  # outputs tell what was, and change when the notebook is next run
        book = json.loads(text)
        for cell in book["cells"]:
            cell["source"] = [names.sub(lambda m: moved[m[1]], line) for line in cell["source"]]
        changed = json.dumps(book, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    else:
        changed = names.sub(lambda m: moved[m[1]], text)
    if changed != text:
        path.write_text(changed)
print("\n".join(f"{old} -> {new}" for old, new in moved.items()))
print("now: nbdev_export, tools/readme.py")
