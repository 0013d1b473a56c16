"What every result says about where and with what it was measured."

import datetime
import importlib.metadata
import os
import platform


def processor() -> str:
    "The processor's name, as far as the system tells."
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions(*packages) -> dict[str, str]:
    "The versions of those that are installed."
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    return found


def described(*packages) -> dict:
    "Date, machine and versions."
    return dict(
        date=datetime.date.today().isoformat(),
        machine=dict(processor=processor(), cores=os.cpu_count(), python=platform.python_version()),
        versions=versions("spurious-rlvr", "torch", "transformers", "numpy", *packages),
    )
