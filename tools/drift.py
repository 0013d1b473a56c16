#!/usr/bin/env python3
"""Brings into step what follows from the notebooks: modules, README, llms.txt and the picture of the architecture, and
cleans the notebooks. Fails where that changed a file, and names it."""

import hashlib
import subprocess
import sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
WRITTEN = ("README.md", "nbs/llms.txt", "nbs/images/architecture.svg")


def files():
    return {
        p: hashlib.sha256(p.read_bytes()).hexdigest()
        for pattern in ("spurious_rlvr/*.py", "nbs/*.ipynb", "nbs/tutorials/*.ipynb", *WRITTEN)
        for p in sorted(root.glob(pattern))
    }


before = files()
for command in ("nbdev_export", "nbdev_clean"):
    subprocess.run([str(Path(sys.executable).parent / command)], cwd=root, check=True)
for tool in ("readme.py", "llms.py", "architecture.py"):
    subprocess.run([sys.executable, str(root / "tools" / tool)], check=True)
after = files()
changed = sorted(str(p.relative_to(root)) for p in before.keys() | after.keys() if before.get(p) != after.get(p))
if changed:
    sys.exit(f"out of step, and brought back: {', '.join(changed)}. Commit them.")
