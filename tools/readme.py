#!/usr/bin/env python3
"""Writes README.md from nbs/index.ipynb; with --check only says whether it is in step."""

import re
from pathlib import Path

import nbformat
from written import keep

root = Path(__file__).resolve().parent.parent
HIDDEN = re.compile(r"^#\|\s*(hide|include:\s*false)\b", re.MULTILINE)
ECHOLESS = re.compile(r"^#\|\s*echo:\s*false\b", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|#)([\w/.-]+\.(?:ipynb|png|svg))")
DIRECTIVE = re.compile(r"^#\|.*\n?", re.MULTILINE)


def render(book) -> str:
    parts = []
    for cell in book.cells:
        if HIDDEN.search(cell.source) or not cell.source.strip():
            continue
        if cell.cell_type == "markdown":
            parts.append(LINK.sub(r"](nbs/\1", cell.source))
            continue
        if ECHOLESS.search(cell.source):  # only what it says; what needs a script is for the site
            said = [o.get("data", {}).get("text/markdown", "") for o in cell.outputs]
            parts += [LINK.sub(r"](nbs/\1", text) for text in said if text]
            continue
        parts.append(f"```python\n{DIRECTIVE.sub('', cell.source).strip()}\n```")
        texts = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell.get("outputs", [])]
        if shown := "".join(texts).strip():
            parts.append(f"```\n{shown}\n```")
    return (
        "<!-- Written from nbs/index.ipynb by tools/readme.py; edit the notebook. -->\n\n" + "\n\n".join(parts) + "\n"
    )


if __name__ == "__main__":
    keep(root / "README.md", render(nbformat.read(root / "nbs" / "index.ipynb", 4)))
