#!/usr/bin/env python3
"""Quarto runs this after rendering: takes the scripts that pages would fetch from other hosts out of them, and says on
every page of the reference what of it is public.

Quarto adds require.js and jQuery from a CDN to every page that has an HTML output, for widgets that might need them.
The views of this site are plain modules inside the page and need neither; with the tags gone no page asks another host.
"""

import os
import re
import sys
from pathlib import Path

from public import public_names

FETCHED = re.compile(r"<script\b[^>]*\bsrc=[\"'](?:https?:)?//[^>]*>\s*</script>\n?", re.IGNORECASE)
DEFINES = re.compile(r"<script\b[^>]*>\s*define\('jquery'.*?</script>\n?", re.DOTALL | re.IGNORECASE)


TITLED = re.compile(r"<header\b[^>]*\bid=[\"']title-block-header[\"'].*?</header>", re.DOTALL)


def without_fetched_scripts(page: str) -> str:
    return DEFINES.sub("", FETCHED.sub("", page))


def what_is_public(module: str) -> str:
    "The rule and the names, for the page of a module; empty for any other page."
    names = public_names(module)
    if not names:
        return ""
    links = ", ".join(f'<a href="#{name.lower()}"><code>{name}</code></a>' for name in names)
    many = f"{len(names)} public name{'s' if len(names) > 1 else ''}"
    rule = "what begins with an underscore is internal and may change without notice"
    return f'<details class="public-names"><summary>{many}; {rule}</summary><p>{links}</p></details>\n'


def with_public_names(page: str, module: str) -> str:
    "A rendered page with that rule under its title."
    told = what_is_public(module)
    return TITLED.sub(lambda title: f"{title[0]}\n{told}", page, count=1) if told and told not in page else page


if __name__ == "__main__":
    for name in sys.argv[1:] or os.environ.get("QUARTO_PROJECT_OUTPUT_FILES", "").splitlines():
        path = Path(name)
        if path.suffix != ".html" or not path.is_file():
            continue
        before = path.read_text(encoding="utf-8")
        module = path.stem if path.resolve().parent.name == "_docs" else ""  # tutorials lie in a folder of their own
        if (after := with_public_names(without_fetched_scripts(before), module)) != before:
            path.write_text(after, encoding="utf-8")
