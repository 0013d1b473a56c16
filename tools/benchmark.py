#!/usr/bin/env python3
"""Runs a benchmark and appends what it printed to the history: tools/benchmark.py bandit.py [ITS OPTIONS …]

benchmarks/history.jsonl has one object a run: date, commit, machine, versions, command, seconds, exit status, output
lines.
Timings of shared machines vary: compare ratios, and lines of the same machine. `tools/benchmark.py --show bandit.py`
prints a script's history.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HISTORY = ROOT / "benchmarks" / "history.jsonl"
sys.path.insert(0, str(ROOT / "benchmarks"))
from machine import described


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        return print(__doc__) or (0 if arguments else 2)
    if arguments[0] == "--show":
        for line in HISTORY.read_text().splitlines() if HISTORY.exists() else []:
            run = json.loads(line)
            if arguments[1:] and run["command"][0] != arguments[1]:
                continue
            print(
                run["date"],
                run["commit"],
                " ".join(run["command"]),
                f"{run['seconds']} s on {run['machine']['processor']}",
                *(f"  {text}" for text in run["output"]),
                sep="\n  ",
            )
        return 0
    if not (script := ROOT / "benchmarks" / arguments[0]).is_file():
        return (
            print(
                f"benchmark: no {arguments[0]} in benchmarks/; there are"
                f" {', '.join(sorted(p.name for p in script.parent.glob('*.py')))}"
            )
            or 2
        )
    began = time.perf_counter()
    result = subprocess.run([sys.executable, str(script), *arguments[1:]], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    print(result.stdout, end="")

    def git(*words):
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    entry = described("trl") | dict(
        commit=git("rev-parse", "--short", "HEAD")
        + ("+" if git("status", "--porcelain", "--untracked-files=no") else ""),
        command=arguments,
        seconds=round(time.perf_counter() - began, 1),
        status=result.returncode,
        output=[line for line in result.stdout.splitlines() if line.strip()][-30:],
    )
    with HISTORY.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry, ensure_ascii=False) + "\n")
    return result.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
