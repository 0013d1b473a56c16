#!/usr/bin/env python3
"""Lets nbdev process every notebook for the site, and checks what Quarto would get, also in Chromium
(`site_in_browser.py`). Rendering needs the real Quarto and is left to `nbdev_docs`.

tools/check_site.py            checks and cleans up
tools/check_site.py --keep     leaves the processed pages in _proc
"""

import ast
import collections
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import yaml
from public import public_definitions

from spurious_rlvr.core import fields_table

ROOT = Path(__file__).resolve().parent.parent
PROC = ROOT / "_proc"
PAGE_BUDGET = 1_500_000  # bytes of a processed page; what a reader with a slow line will wait for
SITE = yaml.safe_load((ROOT / "nbs" / "_quarto.yml").read_text())["website"]["site-url"].rstrip("/") + "/"

FENCE = re.compile(r"^(```+|~~~+).*?^\1\s*$", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
MD_LINK = re.compile(
    r"!?\[(?:[^\[\]]|\[[^\[\]]*\])*\]\(\s*<?([^()\s>]*(?:\([^()\s]*\)[^()\s>]*)*)>?(?:\s+\"[^\"]*\")?\s*\)"
)
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*(?:\{([^}]*)\})?\s*$", re.MULTILINE)
FETCHED = re.compile(
    r"""(?:<(?:script|link|img|iframe|source|video|audio)\b[^>]*\b(?:src|href)\s*=\s*["']?\s*(?:https?:)?//)"""
    r"""|@import\s+(?:url\()?\s*["']?\s*(?:https?:)?//|url\(\s*["']?\s*(?:https?:)?//"""
    r"""|\bimport\s*\(?\s*["']https?://|\bfrom\s+["']https?://|\brequire\(\[?["']https?://|\bfetch\(\s*["']https?://""",
    re.IGNORECASE,
)
ABSOLUTE = re.compile(
    r"(?<![\w./:~-])/(?:home|root|Users|tmp|work|opt|usr|var|private|mnt|data|workspace|runner|github|content)"
    r"/[\w.-]+(?:/[\w.-]+)*"
)
INNER = re.compile(
    r"^_|\."
)  # doclinks to methods and private names have no heading of their own, and lead to their page
SIGNATURE = re.compile(r"^#\|\s*output:\s*asis\s*\n.*?show_doc\(\s*([\w.]+)", re.MULTILINE | re.DOTALL)


class Page:
    "A processed notebook: its title, output name, anchors, links, and faults of its own."

    def __init__(self, path: Path):
        self.path, self.name = path, path.relative_to(PROC).as_posix()
        self.cells = nbformat.read(path, 4).cells
        self.front = (
            next(
                (
                    yaml.safe_load(found[1])
                    for c in self.cells[:2]
                    if (found := re.match(r"\s*---\n(.*?)\n---", c.source, re.DOTALL))
                ),
                {},
            )
            or {}
        )
        self.output = (
            path.parent.relative_to(PROC) / self.front.get("output-file", path.with_suffix(".html").name)
        ).as_posix()
        self.texts = [c.source for c in self.cells if c.cell_type == "markdown"] + [
            text for c in self.cells for o in c.get("outputs", []) if (text := o.get("data", {}).get("text/markdown"))
        ]
        self.html = [
            text for c in self.cells for o in c.get("outputs", []) if (text := o.get("data", {}).get("text/html"))
        ]

    def prose(self):  # markdown without its code
        for text in self.texts:
            yield CODE_SPAN.sub(lambda code: "x" * len(code[0]), FENCE.sub("", text))

    def anchors(self):
        names, seen = set(), collections.Counter()
        for text in self.texts:
            for title, attributes in HEADING.findall(FENCE.sub("", text)):
                name = next((word[1:] for word in attributes.split() if word.startswith("#")), None) or slug(title)
                names.add(name if not seen[name] else f"{name}-{seen[name]}")
                seen[name] += 1
            names |= set(re.findall(r"\{#([\w.:-]+)", text)) | set(re.findall(r"\bid=[\"']([^\"']+)", text))
        return names | {i for html in self.html for i in re.findall(r"\bid=[\"']([^\"']+)", html)}

    def links(self):
        for text in self.prose():
            yield from MD_LINK.findall(text)
            yield from re.findall(r"<(?:a|img)\b[^>]*\b(?:href|src)=[\"']([^\"']+)", text)


def slug(title: str) -> str:
    "A heading's anchor, as pandoc makes it."
    title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
    title = re.sub(r"[^\w\s.-]", "", title.replace("`", "").replace("*", "").lower())
    return re.sub(r"^[^a-z]+", "", re.sub(r"\s+", "-", title.strip())) or "section"


def process() -> None:
    "Everything nbdev does before it calls Quarto."
    with tempfile.TemporaryDirectory() as folder:
        if not shutil.which("quarto"):  # nbdev would try to install it
            (stub := Path(folder) / "quarto").write_text("#!/bin/sh\nexit 0\n")
            stub.chmod(0o755)
        shutil.rmtree(PROC, ignore_errors=True)
        subprocess.run(
            [str(Path(sys.executable).parent / "nbdev_proc_nbs")],
            cwd=ROOT,
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"},
        )


def listed(contents) -> list[str]:
    "Pages of a sidebar, in order."
    return [page for entry in contents for page in (listed(entry["contents"]) if isinstance(entry, dict) else [entry])]


def exported() -> dict[str, set[str]]:
    "Public classes and functions of every module, by its notebook."
    found = {}
    for module in sorted((ROOT / "spurious_rlvr").glob("*.py")):
        if source := re.search(r"File to edit: \.\./nbs/(\S+\.ipynb)", text := module.read_text()):
            found[source[1]] = {n.name for n in public_definitions(ast.parse(text))}
    return found


def check_cells(page: Page):
    for cell in page.cells:
        here = f"{cell.source[:60]!r}"
        if (
            re.search(r"^\s*#\|\s*(?:export\w*|default_exp|exec_doc)\b", cell.source, re.MULTILINE)
            and cell.cell_type == "code"
        ):
            yield f"an nbdev directive is left in the page: {here}"
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            text = output.get("text", "") + "".join(
                json.dumps(v) if isinstance(v, (dict, list)) else v
                for m, v in data.items()
                if not m.startswith("image/p")
            )
            if output.output_type == "error" or re.search(
                r"^Traceback \(most recent call last\)", output.get("text", ""), re.MULTILINE
            ):
                yield f"a traceback is kept: {here}"
            if re.match(r"<Figure size", data.get("text/plain", "")) and not any(m.startswith("image/") for m in data):
                yield f"a figure is not shown (execute the notebook with tools/execute.py): {here}"
            if any("widget" in m for m in data):
                yield (
                    "an output needs a kernel or a CDN (a widget's own"
                    f" format{'' if 'text/html' in data else ', without text/html'}): {here}"
                )
            if "image/png" not in data and (found := ABSOLUTE.search(text)):
                yield f"an absolute path is kept in an output, {found[0]}: {here}"
            if found := FETCHED.search(text):
                yield f"an output fetches from another host, {found[0]!r}: {here}"


def check_figures(page: Page):
    for cell in page.cells:
        pictures = any(kind.startswith("image/") for o in cell.get("outputs", []) for kind in o.get("data", {}))
        for option in ("fig-alt", "fig-cap"):
            if pictures and not re.search(rf"^#\|\s*{option}:\s*\S", cell.source, re.MULTILINE):
                yield f"a figure has no {option}: {cell.source[:60]!r}"
    for text in page.prose():
        if re.search(r"!\[\s*\]\(|<img(?![^>]*\balt=\"[^\"])", text):
            yield "a picture has no alternative text"


def check_kept(page: Page):
    """Outputs stand under the cells that made them, and tables of fields are those of today's classes. Pages have links
    put into them, so the notebook is read."""
    for cell in nbformat.read(ROOT / "nbs" / page.name, 4).cells:
        if cell.cell_type == "code" and any(o.output_type == "execute_result" for o in cell.outputs):
            code = re.sub(r"^\s*[%!].*$", "", cell.source, flags=re.MULTILINE)  # without IPython's own lines
            if not isinstance((ast.parse(code).body or [None])[-1], ast.Expr):
                yield f"a result stands under a cell that gives none: {cell.source[:60]!r}"
        if found := re.search(r"^fields_table\((['\"])(.+?)\1\)$", cell.source, re.MULTILINE):
            shown = [o.get("data", {}).get("text/markdown", "") for o in cell.get("outputs", [])]
            if shown != [fields_table(found[2]).data]:
                yield f"the table of {found[2]} is out of step: run its cell"


def check_links(page: Page, pages: dict[str, Page], by_output: dict[str, Page], anchors: dict[str, set[str]]):
    for text in page.texts:
        for nested in re.findall(r"\[\[`[^`]+`\]\([^)]*\)\]\([^)]*\)", FENCE.sub("", text)):
            yield f"a link inside a link (leave the backticks out of the words of a link): {nested[:80]}"
    for link in page.links():
        if link.startswith(SITE):
            target, _, anchor = link[len(SITE) :].partition("#")
            found = by_output.get(target or "index.html")
        elif re.match(r"[a-z][\w+.-]*:", link, re.IGNORECASE):
            continue
        else:
            target, _, anchor = link.partition("#")
            path = (page.path.parent / target).resolve() if target else page.path
            name = path.relative_to(PROC).as_posix() if path.is_relative_to(PROC) else None
            found = pages.get(name) or by_output.get(name)
            if found is None and name and path.is_file() and not anchor:
                continue  # an image or another file
        if found is None:
            yield f"a link leads nowhere: {link}"
        elif (
            anchor
            and anchor.lower() not in anchors[found.name]
            and not (link.startswith(SITE) and INNER.search(anchor))
        ):
            yield f"a link's anchor is not there: {link}"


def check_signatures(page: Page, names: set[str]):
    shown = collections.Counter(name for cell in page.cells for name in SIGNATURE.findall(cell.source))
    for name in sorted(names):
        if shown[name] != 1:
            yield f"{name} has {shown[name] or 'no'} rendered signature{'s' * (shown[name] > 1)}"


def check_styles():
    for path in [
        *(ROOT / "nbs").glob("*.scss"),
        *(ROOT / "nbs").glob("*.css"),
        *(ROOT / "spurious_rlvr" / "static").iterdir(),
    ]:
        if path.suffix in (".scss", ".css", ".js") and (found := FETCHED.search(path.read_text())):
            yield f"{path.relative_to(ROOT)}: fetches from another host, {found[0]!r}"
    html = yaml.safe_load((ROOT / "nbs" / "_quarto.yml").read_text())["format"]["html"]
    for name in [*(n for themes in html["theme"].values() for n in themes), html["css"]]:
        if not (PROC / name).is_file():
            yield f"_quarto.yml: {name} is no file of this site (themes by name ask another host for their fonts)"
    if html.get("html-math-method") != "mathml":
        yield "_quarto.yml: formulas must be MathML; MathJax and KaTeX come from another host"


def check_sidebar(pages: dict[str, Page]):
    entries = listed(yaml.safe_load((PROC / "_quarto.yml").read_text())["website"]["sidebar"]["contents"])
    for name, times in collections.Counter(entries).items():
        if times > 1:
            yield f"_quarto.yml: the sidebar lists {name} {times} times"
        if name not in pages:
            yield f"_quarto.yml: the sidebar lists {name}, which is not there"
    for name in pages.keys() - set(entries):
        yield f"_quarto.yml: the sidebar does not list {name}"


def check() -> list[str]:
    pages = {page.name: page for path in sorted(PROC.rglob("*.ipynb")) if (page := Page(path))}
    by_output, anchors, public = (
        {p.output: p for p in pages.values()},
        {p.name: {a.lower() for a in p.anchors()} for p in pages.values()},
        exported(),
    )
    faults = [*check_sidebar(pages), *check_styles()]
    sources = {
        p.relative_to(ROOT / "nbs").as_posix()
        for p in (ROOT / "nbs").rglob("*.ipynb")
        if ".ipynb_checkpoints" not in p.parts
    }
    faults += [f"{name}: was not processed" for name in sorted(sources - pages.keys())]
    if len(by_output) < len(pages):
        faults.append("two pages have the same output file")
    for name, page in pages.items():
        found = [
            *check_cells(page),
            *check_figures(page),
            *check_kept(page),
            *check_links(page, pages, by_output, anchors),
            *check_signatures(page, public.get(name, set())),
        ]
        if not str(page.front.get("title") or "").strip():
            found.append("has no title")
        if (size := page.path.stat().st_size) > PAGE_BUDGET:
            found.append(f"has {size:,} bytes; the budget is {PAGE_BUDGET:,}")
        faults += [f"{name}: {fault}" for fault in dict.fromkeys(found)]
    if subprocess.run([sys.executable, str(ROOT / "tools" / "readme.py"), "--check"], capture_output=True).returncode:
        faults.append("README.md is not in step with nbs/index.ipynb: run tools/readme.py")
    return faults


def in_browser() -> list[str]:
    "What Chromium finds in the pages; where there is none, only CI takes that for a fault."
    from site_in_browser import CHROMIUM, look

    if CHROMIUM is None:
        missing = "no Chromium found to look at the pages (Debian: apt-get install chromium fonts-dejavu-core)"
        if os.environ.get("CI") == "true":
            return [missing]
        print(missing, file=sys.stderr)
        return []
    return look((Page(path) for path in sorted(PROC.rglob("*.ipynb"))), PROC)


if __name__ == "__main__":
    process()
    faults = [*check(), *in_browser()]
    if "--keep" not in sys.argv:
        shutil.rmtree(PROC, ignore_errors=True)
    for fault in faults:
        print(fault)
    sys.exit(bool(faults))
