#!/usr/bin/env python3
"""Fails where exporting or cleaning the notebooks, or writing the README, would change a file."""

import hashlib
import subprocess
import sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent


def files():
    return {
        p: hashlib.sha256(p.read_bytes()).hexdigest()
        for pattern in ("spurious_rlvr/*.py", "nbs/*.ipynb", "nbs/tutorials/*.ipynb")
        for p in sorted(root.glob(pattern))
    }


before = files()
for command in ("nbdev_export", "nbdev_clean"):
    subprocess.run([str(Path(sys.executable).parent / command)], cwd=root, check=True)
after = files()
changed = sorted(str(p.relative_to(root)) for p in before.keys() | after.keys() if before.get(p) != after.get(p))
if changed:
    sys.exit(f"export or notebooks were out of step and have been brought back: {', '.join(changed)}. Commit them.")
for tool in ("readme.py", "llms.py", "architecture.py"):
    subprocess.run([sys.executable, str(root / "tools" / tool), "--check"], check=True)
