#!/usr/bin/env python3
"""Executes notebooks from clean and keeps their outputs: tools/execute.py nbs/00_core.ipynb …

Cells marked `#| slow`, `#| gpu` or `#| hub` are not run and keep the output they have; --flags slow runs those too.
Outputs that change from run to run (progress bars, warnings on stderr) are dropped, so that a diff shows only what
changed.
"""

import argparse
import base64
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

FLAG = re.compile(r"^#\|\s*(slow|gpu|hub)\b", re.MULTILINE)


def execute(path: Path, flags: set[str]) -> None:
    book = nbformat.read(path, 4)

    def marked(cell):
        return cell.cell_type == "code" and (found := FLAG.search(cell.source)) and found[1] not in flags

    running = nbformat.v4.new_notebook(cells=[c for c in book.cells if not marked(c)], metadata=book.metadata)
    client = NotebookClient(
        running,
        timeout=3600,
        kernel_name="python3",
        store_widget_state=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    for cell in running.cells:
        if cell.cell_type == "code":
            cell.outputs = [
                light(o)
                for o in cell.outputs
                if not (o.output_type == "stream" and (o.name == "stderr" or not without_chatter(o))) and not is_bar(o)
            ]
    nbformat.write(book, path)
    subprocess.run([str(Path(sys.executable).parent / "nbdev_clean"), "--fname", str(path)], check=True)


def is_bar(output):
    "Whether an output is a progress bar: a widget without a page of its own."
    return "application/vnd.jupyter.widget-view+json" in (data := output.get("data", {})) and "text/html" not in data


def without_chatter(output):
    "What a cell printed, without the dated lines that DeepSpeed prints where it is installed."
    output["text"] = re.sub(r"^\[\d{4}-.*real_accelerator.*\n?", "", output["text"], flags=re.MULTILINE)
    return output["text"]


def light(output):
    """Without the counter; a widget as the page that needs no kernel, which Quarto would pass over; figures as PNG of
    128 colours, a third of the size."""
    if "execution_count" in output:
        output["execution_count"] = None
    if "text/html" in output.get("data", {}):
        output["data"].pop("application/vnd.jupyter.widget-view+json", None)
    if "data" in output and "image/png" in output["data"]:
        output["data"].pop("text/plain", None)
        picture, small = (
            Image.open(io.BytesIO(base64.b64decode(output["data"]["image/png"]))).convert("RGB"),
            io.BytesIO(),
        )
        picture.quantize(128, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
        output["data"]["image/png"] = base64.b64encode(small.getvalue()).decode()
    return output


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="+", type=Path)
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # figures are kept as pictures
    parser.add_argument("--flags", nargs="*", default=[], choices=["slow", "gpu", "hub"])
    options = parser.parse_args()
    for notebook in options.notebooks:
        print(notebook, flush=True)
        execute(notebook, set(options.flags))
    sys.exit(0)
