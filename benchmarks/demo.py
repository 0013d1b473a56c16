#!/usr/bin/env python3
"""The demo at other seeds or with another organism, its numbers kept: python benchmarks/demo.py NAME [--seed-base N]
[--organism FOLDER] writes `results/demo_NAME.json`, with machine, date and time. The claims, their procedure and the
words stand in `spurious_rlvr.demo` and were fixed before any of these seeds was run."""

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import pandas as pd
from machine import described

from spurious_rlvr.demo import demo, planned

ROOT = Path(__file__).resolve().parent.parent


def state() -> str:
    "The commit that the code is at, and whether it was changed since."
    return subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()


def kept(place: Path, organism: str) -> dict:
    "What a finished demo says, in numbers and words; each run's accuracy too."
    summary, runs = json.loads((place / "summary.json").read_text()), pd.read_csv(place / "outcomes.csv")
    columns = ["arm", "seed", "accuracy_before", "accuracy", "code_share", "clip_fraction_high", "clip_fraction_low"]
    columns += ["log_ratio_spread"]
    card = Path(organism) / "card.json"
    about = json.loads(card.read_text())["measured"] if card.exists() else {}
    return summary | dict(organism=about, runs=runs[columns].round(6).to_dict("list"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="of the result")
    parser.add_argument("--seed-base", type=int)
    parser.add_argument("--organism", default="qwen-like")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--folder", help="keep the runs here")
    given, began = parser.parse_args(), time.perf_counter()
    told = described("pandas", "scipy") | dict(commit=state(), jobs=given.jobs)
    with tempfile.TemporaryDirectory() as spare:
        plan = planned(organism=given.organism, seed_base=given.seed_base)
        report = demo(given.folder or Path(spare) / "demo", plan=plan, jobs=given.jobs)
        seeds = [plan.seeds[0], plan.seeds[-1]]
        told |= dict(seconds=round(time.perf_counter() - began), organism_name=Path(given.organism).name, seeds=seeds)
        told |= kept(report.parent, given.organism)
    (ROOT / "benchmarks" / "results" / f"demo_{given.name}.json").write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told["words"], indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
