"""A file that follows from others: written, or with --check only compared."""

import sys
from pathlib import Path


def keep(place: Path, text: str) -> None:
    "Writes the file; with --check says which tool to run where it is not in step."
    if "--check" not in sys.argv:
        place.write_text(text)
    elif not place.exists() or place.read_text() != text:
        sys.exit(f"{place.name} is not in step with what it is made from: run tools/{Path(sys.argv[0]).name}")
