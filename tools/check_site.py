#!/usr/bin/env python3
"""Lets nbdev process every notebook for the site, and checks what Quarto would get. Rendering needs the real Quarto and is left to `nbdev_docs`."""
import os, shutil, subprocess, sys, tempfile
from pathlib import Path
import nbformat

root = Path(__file__).resolve().parent.parent
with tempfile.TemporaryDirectory() as folder:
    if not shutil.which("quarto"):  # nbdev would try to install it
        stub = Path(folder)/"quarto"
        stub.write_text("#!/bin/sh\nexit 0\n")
        stub.chmod(0o755)
    shutil.rmtree(root/"_proc", ignore_errors=True)
    subprocess.run([str(Path(sys.executable).parent/"nbdev_proc_nbs")], cwd=root, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"})

faults = []
for source in sorted((root/"nbs").rglob("*.ipynb")):
    if ".ipynb_checkpoints" in source.parts: continue
    page = root/"_proc"/source.relative_to(root/"nbs")
    if not page.exists(): faults.append(f"{source.name}: was not processed"); continue
    cells = nbformat.read(page, 4).cells
    if not any("title:" in c.source for c in cells[:2]): faults.append(f"{source.name}: has no title")
    for cell in cells:
        if cell.source.lstrip().startswith("#| export"): faults.append(f"{source.name}: an exported cell is shown as code: {cell.source[:60]!r}")
        if any(o.output_type == "error" for o in cell.get("outputs", [])): faults.append(f"{source.name}: a traceback is kept: {cell.source[:60]!r}")
for name in ("site.scss", "styles.css"):
    if not (root/"_proc"/name).exists(): faults.append(f"{name}: named in _quarto.yml and not there")
shutil.rmtree(root/"_proc", ignore_errors=True)
for fault in faults: print(fault)
sys.exit(bool(faults))
