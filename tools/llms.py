#!/usr/bin/env python3
"""Writes nbs/llms.txt, the site's list of pages and public names for programs that read it; with --check only says
whether it is in step."""

import ast
import re
from pathlib import Path

import nbformat
import yaml
from public import public_definitions
from written import keep

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / "nbs" / "llms.txt"


def entries(contents, section=""):
    "Pages of the sidebar with their sections, in order."
    for entry in contents:
        if isinstance(entry, dict):
            yield from entries(entry["contents"], entry["section"])
        else:
            yield section, entry


def page_line(name: str, site: str) -> str:
    "A page's title, address and description, from its first cell."
    first = nbformat.read(ROOT / "nbs" / name, 4).cells[0].source.splitlines()
    title = first[0].lstrip("# ")
    said = next((line[2:] for line in first if line.startswith("> ")), "")
    folder, _, file = name.rpartition("/")
    page = "/".join(filter(None, [site, folder, re.sub(r"^\d+_|\.ipynb$", "", file)]))
    return f"- [{title}]({page}.html): {said}"


def first_line(node) -> str:
    return " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())


def api_lines(module: Path):
    "Public classes and functions of a module, each with the first paragraph of its docstring."
    for node in public_definitions(ast.parse(module.read_text())):
        yield f"- `{module.stem}.{node.name}`: {first_line(node)}"


def listing() -> str:
    website = yaml.safe_load((ROOT / "_quarto.yml").read_text())["website"]
    lines, last = [f"# {website['title']}", "", f"> {website['description']}"], None
    for section, name in entries(website["sidebar"]["contents"]):
        if section != last:
            lines += ["", f"## {section or 'Pages'}", ""]
            last = section
        elif last is None:
            lines += ["", "## Pages", ""]
            last = section
        lines.append(page_line(name, website["site-url"]))
    for module in sorted((ROOT / "spurious_rlvr").glob("[a-z]*.py")):
        if found := list(api_lines(module)):
            lines += ["", f"## API: {module.stem}", "", *found]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    keep(PLACE, listing())
