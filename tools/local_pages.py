#!/usr/bin/env python3
"""Quarto runs this after rendering: takes the scripts that pages would fetch from other hosts out of them.

Quarto adds require.js and jQuery from a CDN to every page that has an HTML output, for widgets that might need them.
The views of this site are plain modules inside the page and need neither; with the tags gone no page asks another host.
"""

import os
import re
import sys
from pathlib import Path

FETCHED = re.compile(r"<script\b[^>]*\bsrc=[\"'](?:https?:)?//[^>]*>\s*</script>\n?", re.IGNORECASE)
DEFINES = re.compile(r"<script\b[^>]*>\s*define\('jquery'.*?</script>\n?", re.DOTALL | re.IGNORECASE)


def without_fetched_scripts(page: str) -> str:
    return DEFINES.sub("", FETCHED.sub("", page))


if __name__ == "__main__":
    for name in sys.argv[1:] or os.environ.get("QUARTO_PROJECT_OUTPUT_FILES", "").splitlines():
        path = Path(name)
        if path.suffix != ".html" or not path.is_file():
            continue
        before = path.read_text(encoding="utf-8")
        if (after := without_fetched_scripts(before)) != before:
            path.write_text(after, encoding="utf-8")
