#!/usr/bin/env python3
"""Raises the pins and says what broke: tools/raise_pins.py [PACKAGE …] [--keep] [--folder .work/raised]

Makes an environment of its own with the newest versions that pip finds (of all packages, or only of those named,
with the
others at their pins), runs the checks there, and prints which versions moved and which checks failed. Where a check
fails
and several packages moved, it puts the packages that pyproject.toml names back one at a time, and so names the one that
broke it. With --keep the new versions are written to constraints.txt, but only if every check passes.
"""

import argparse
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PINS = ROOT / "constraints.txt"
CHECKS = {
    "import and help": [
        "-m",
        "pytest",
        "-q",
        "tests/test_project.py",
        "tests/test_cli.py",
        "-m",
        "not slow and not browser and not vllm",
    ],
    "objective": ["-m", "pytest", "-q", "tests/test_objective_reference.py", "tests/test_objective_trl.py"],
    "training": ["-m", "pytest", "-q", "tests/test_train.py", "tests/test_engine.py", "-m", "not slow"],
    "everything else": ["-m", "pytest", "-q", "-m", "not slow and not browser and not vllm"],
}


def name_of(requirement: str) -> str:
    "The normal form of the package's name at the start of a requirement."
    return re.split(r"[=<>!~\[; ]", requirement.strip())[0].lower().replace("_", "-").replace(".", "-")


def read_pins(text: str) -> dict[str, str]:
    "Package and its pinned line; comments are passed over."
    return {name_of(line): line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")}


def constraints(pins: dict[str, str], raised: set[str] | None) -> str:
    "The pins without those that may move; None: all may."
    return (
        "\n".join(
            line for name, line in pins.items() if raised is not None and name not in raised and name != "spurious-rlvr"
        )
        + "\n"
    )


def moved(old: dict[str, str], new: dict[str, str]) -> dict[str, tuple[str, str]]:
    "Package -> (version before, version after), where they differ."

    def version(line):
        return line.partition("==")[2]

    return {
        name: (version(old[name]), version(new[name]))
        for name in sorted(old.keys() & new.keys())
        if version(old[name]) != version(new[name])
    }


def written(pins_text: str, new: dict[str, str]) -> str:
    "The constraints file with the new versions; comments and order stay, and packages that are gone too."
    return (
        "\n".join(
            line if not line.strip() or line.startswith("#") else new.get(name_of(line), line)
            for line in pins_text.splitlines()
        )
        + "\n"
    )


def installed(listed: list[dict[str, str]]) -> dict[str, str]:
    """Package and the line that pins it, from what pip lists. A local label (+cpu, +cu126) tells a build, not a
    version: a pin with it would hold on one kind of machine only."""
    return {
        name_of(entry["name"]): f"{name_of(entry['name'])}=={entry['version'].partition('+')[0]}" for entry in listed
    }


def install(folder: Path, limits: str) -> dict[str, str]:
    "Installs the package with all that develops it; what stands there afterwards."
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    limit = folder / "limits.txt"
    limit.write_text(limits)
    subprocess.run(
        [
            str(python),
            "-m",
            "pip",
            "install",
            "-q",
            "--disable-pip-version-check",
            "--upgrade",
            "--upgrade-strategy",
            "eager",
            "-c",
            str(limit),
            "-e",
            f"{ROOT}[dev]",
        ],
        check=True,
    )
    listed = json.loads(
        subprocess.run(
            [str(python), "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    return installed(listed)


def failing(folder: Path) -> list[str]:
    "Names of the checks that fail in an environment; their last lines are printed."
    failed = []
    for name, arguments in CHECKS.items():
        result = subprocess.run([str(folder / "bin" / "python"), *arguments], cwd=ROOT, capture_output=True, text=True)
        print(f"  {name}: {'passes' if result.returncode == 0 else 'FAILS'}", flush=True)
        if result.returncode:
            failed.append(name)
            print(
                "\n".join(f"    {line}" for line in result.stdout.splitlines() if line.startswith(("FAILED", "ERROR")))[
                    :4000
                ]
            )
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="*", help="raise only these")
    parser.add_argument("--keep", action="store_true", help="write the new pins, if every check passes")
    parser.add_argument("--folder", type=Path, default=ROOT / ".work" / "raised")
    options = parser.parse_args()
    text = PINS.read_text()
    pins = read_pins(text)
    wanted = {name_of(p) for p in options.packages} or None
    if unknown := (wanted or set()) - pins.keys():
        return print(f"raise_pins: not pinned: {', '.join(sorted(unknown))}") or 2
    new = install(options.folder, constraints(pins, wanted))
    changes = moved(pins, new)
    for name, (before, after) in changes.items():
        print(f"{name}: {before} -> {after}")
    if not changes:
        return print("every pin is the newest") or 0
    failed = failing(options.folder)
    direct = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {name_of(r) for r in direct["dependencies"] + direct["optional-dependencies"]["dev"]} & changes.keys()
    if failed and len(named) > 1:
        for name in sorted(named):
            print(f"with {name} put back to {changes[name][0]}:", flush=True)
            install(options.folder, constraints(new | {name: pins[name]}, set()))
            if not failing(options.folder):
                print(f"=> {name} {changes[name][1]} breaks: {', '.join(failed)}")
    if failed:
        return print(f"broken: {', '.join(failed)}; constraints.txt is as it was") or 1
    if options.keep:
        PINS.write_text(written(text, new))
        print("constraints.txt is written; run ./bench test, then commit")
    return 0


if __name__ == "__main__":
    sys.exit(main())
