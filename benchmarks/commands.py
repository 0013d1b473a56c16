#!/usr/bin/env python3
"""Times the commands of the laptop section of `choose_your_size`, one after the other in an empty folder: python
benchmarks/commands.py [--out FILE]

CPU seconds are of the command and all its processes; they tell more than the clock where the machine is shared.
"""

import argparse
import json
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import described

COMMANDS = [
    "spurious-rlvr --help",
    "spurious-rlvr demo --quick --jobs 1",
    "spurious-rlvr train qwen-like random:0.5 --out coin",
    "spurious-rlvr view coin",
    "spurious-rlvr evaluate coin --benchmark chains:200:7:2-4",
    "spurious-rlvr audit --reward ground_truth --quick --jobs 1",
]


def measure(command: str, folder: str) -> dict:
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    program, *arguments = shlex.split(command)
    done = subprocess.run(
        [str(Path(sys.executable).parent / program), *arguments], cwd=folder, capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stderr[-2000:]}")
    return dict(
        command=command,
        seconds=round(time.perf_counter() - began, 1),
        cpu_seconds=round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(command, folder) for command in COMMANDS]
    result = described() | dict(commands=rows)
    for row in rows:
        print(f"{row['seconds']:7.1f} s  {row['cpu_seconds']:7.1f} CPU s  {row['command']}")
    if out:
        out.write_text(json.dumps(result, indent=1) + "\n")
