#!/usr/bin/env python3
"""Draws nbs/images/architecture.svg from the imports of the package: rooms in layers, each above what it needs. With
--check only says whether the picture is in step."""

import ast
from pathlib import Path

from written import keep

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / "nbs" / "images" / "architecture.svg"
WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 104, 30, 14, 40, 16


def needed(module: Path, names: set[str], inner: bool) -> set[str]:
    "The rooms that a module imports; inner: within its functions too, where an import waits until it is wanted."
    tree, found = ast.parse(module.read_text()), set()
    nodes = ast.walk(tree) if inner else iter(tree.body)
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            source = (node.module or "").removeprefix("spurious_rlvr").lstrip(".")
            if node.level or (node.module or "").startswith("spurious_rlvr"):
                found |= {source} if source else {alias.name for alias in node.names}
    return (found & names) - {module.stem}


def graph(inner: bool) -> dict[str, set[str]]:
    modules = [p for p in sorted((ROOT / "spurious_rlvr").glob("[a-z]*.py"))]
    names = {p.stem for p in modules}
    return {p.stem: needed(p, names, inner) for p in modules}


def layers(needs: dict[str, set[str]]) -> list[list[str]]:
    "Rooms by the longest way down to one that needs nothing; fails on a circle."
    depth: dict[str, int] = {}

    def of(name, path=()):
        if name in path:
            raise SystemExit(f"a circle of imports: {' -> '.join([*path, name])}")
        if name not in depth:
            depth[name] = 1 + max((of(other, (*path, name)) for other in needs[name]), default=-1)
        return depth[name]

    for name in needs:
        of(name)
    return [sorted(n for n in needs if depth[n] == level) for level in range(max(depth.values()) + 1)]


def direct(needs: dict[str, set[str]]) -> list[tuple[str, str]]:
    "Imports that no other import implies."

    def below(name):
        return needs[name].union(*(below(other) for other in needs[name]))

    return [(a, b) for a in needs for b in sorted(needs[a]) if not any(b in below(c) for c in needs[a] - {b})]


def ordered(rows: list[list[str]], lines: list[tuple[str, str]]) -> list[list[str]]:
    "Each row by the mean place of what its rooms stand on, so that fewer lines cross."
    place = {name: i for i, name in enumerate(rows[0])}
    out = [rows[0]]
    for row in rows[1:]:
        under = {name: [place[b] for a, b in lines if a == name] or [0] for name in row}
        row = sorted(row, key=lambda name: (sum(under[name]) / len(under[name]), name))
        place |= {name: i + (len(rows[0]) - len(row)) / 2 for i, name in enumerate(row)}
        out.append(row)
    return out


def drawing() -> str:
    needs = graph(inner=True)
    lines = direct(needs)
    rows = ordered(layers(needs), lines)
    widest = max(map(len, rows))
    total = 2 * MARGIN + widest * (WIDTH + GAP_X) - GAP_X
    height = 2 * MARGIN + len(rows) * (HEIGHT + GAP_Y) - GAP_Y
    spot = {}
    for level, row in enumerate(rows):
        left = (total - len(row) * (WIDTH + GAP_X) + GAP_X) / 2
        for i, name in enumerate(row):
            spot[name] = (left + i * (WIDTH + GAP_X), height - MARGIN - HEIGHT - level * (HEIGHT + GAP_Y))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total:g} {height:g}" role="img"'
        ' font-family="system-ui, sans-serif" font-size="13">',
        "<title>The rooms of the package, each above what it imports</title>",
        "<style>.r{fill:#e8eef5;stroke:#1f4e79}.l{stroke:#8a97a5;fill:none}.t{fill:#1d2733;text-anchor:middle}</style>",
    ]
    for upper, lower in lines:
        (x1, y1), (x2, y2) = spot[upper], spot[lower]
        x1, x2, y1 = x1 + WIDTH / 2, x2 + WIDTH / 2, y1 + HEIGHT
        parts.append(f'<path class="l" d="M{x1:g} {y1:g}C{x1:g} {y1 + 24:g} {x2:g} {y2 - 24:g} {x2:g} {y2:g}"/>')
    for name, (x, y) in sorted(spot.items()):
        parts.append(f'<rect class="r" x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="5"/>')
        parts.append(f'<text class="t" x="{x + WIDTH / 2:g}" y="{y + 20:g}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    keep(PLACE, drawing())
