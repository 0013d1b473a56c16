"The project's own promises: one version, light imports, complete packages."

import ast
import configparser
import json
import re
import resource
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "spurious_rlvr"
LIGHT = "core tasks grading behavior rewards objective runs compare clipbias diagnose plots widgets cli".split()
ROOMS = (
    "core tasks grading behavior rewards objective runs policy rollout evaluate plan train replay organisms compare"
    " clipbias diagnose plots widgets studies audit demo cli".split()
)
HEAVY = {"torch", "transformers", "vllm", "accelerate", "peft", "deepspeed", "ray", "datasets"}


def test_settings_and_pyproject_agree():
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(ROOT / "settings.ini")
    settings, project = settings["DEFAULT"], tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert settings["lib_name"] == project["name"]
    assert settings["description"] == project["description"]
    assert ">=" + settings["min_python"] == project["requires-python"]
    assert settings["git_url"] == project["urls"]["Repository"]
    assert re.search(rf'__version__ = "{re.escape(settings["version"])}"', (PACKAGE / "__init__.py").read_text())


def test_citation_and_changelog_name_the_version():
    import spurious_rlvr

    assert f"version: {spurious_rlvr.__version__}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {spurious_rlvr.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_links_resolve():
    assert json.dumps(None) and (ROOT / "nbs" / "_quarto.yml").resolve() == ROOT / "_quarto.yml"
    assert (PACKAGE / "tutorials").resolve() == ROOT / "nbs" / "tutorials"


def test_every_tested_dependency_is_pinned():
    pins = {
        re.split(r"[=<>\[ ]", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [
        w for extra, needed in project["optional-dependencies"].items() if extra != "vllm" for w in needed
    ]
    missing = {
        name for name in (re.split(r"[=<>\[ ]", w)[0].lower().replace("_", "-") for w in wanted) if name not in pins
    }
    assert not missing


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_exists_and_states_its_duty(room):
    assert ast.get_docstring(ast.parse((PACKAGE / f"{room}.py").read_text()))


def loaded_by(statement):
    code = f"import sys; {statement}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("room", LIGHT)
def test_light_rooms_import_nothing_heavy(room):
    assert not loaded_by(f"import spurious_rlvr.{room}") & HEAVY


def test_the_package_itself_imports_only_the_standard_library():
    extra = loaded_by("import spurious_rlvr") - loaded_by("pass") - set(sys.stdlib_module_names)
    assert extra <= {"spurious_rlvr"}


def test_rooms_are_reached_as_attributes():
    import spurious_rlvr

    assert spurious_rlvr.clipbias.simulate_bandit
    with pytest.raises(AttributeError, match="nothing_here"):
        _ = spurious_rlvr.nothing_here


def test_help_needs_nothing_heavy():
    code = (
        "import sys; from spurious_rlvr.cli import app; app(['--help'], standalone_mode=False); print(*{m.split('.')[0]"
        " for m in sys.modules}, file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(result.stderr.split()) & (HEAVY | {"pandas", "matplotlib"}) and "demo" in result.stdout


# What each room imports from elsewhere when it is imported. The light ones are those that work without torch;
# whatever is heavier is imported in the function that needs it.
IMPORTS = {
    "core": "numpy",
    "tasks": "",
    "grading": "",
    "behavior": "",
    "rewards": "numpy",
    "objective": "",
    "runs": "pandas pyarrow",
    "policy": "numpy torch",
    "rollout": "numpy torch",
    "evaluate": "numpy pandas pyarrow scipy",
    "plan": "",
    "train": "accelerate numpy pandas safetensors torch",
    "replay": "numpy pandas torch",
    "organisms": "numpy torch",
    "compare": "numpy pandas scipy",
    "clipbias": "numpy pandas scipy",
    "diagnose": "numpy pandas pyarrow scipy",
    "plots": "matplotlib numpy pandas scipy",
    "widgets": "anywidget numpy pandas pyarrow scipy traitlets",
    "studies": "numpy pandas",
    "audit": "numpy pandas",
    "demo": "pandas",
    "cli": "typer",
}
VIEWS, DOERS = (
    "runs compare clipbias diagnose plots widgets".split(),
    "policy rollout train replay organisms studies audit demo".split(),
)


def imports(room):
    "(third-party packages, rooms) at the top of a module, and (rooms) anywhere in it."
    tree, outside, rooms, anywhere = ast.parse((PACKAGE / f"{room}.py").read_text()), set(), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "spurious_rlvr" + (f".{node.module}" if node.module else "") if node.level else node.module
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "spurious_rlvr" else [base]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first == "spurious_rlvr" and (other := rest.partition(".")[0]) in ROOMS:
                anywhere.add(other)
                if node in tree.body:
                    rooms.add(other)
            elif first != "spurious_rlvr" and first not in sys.stdlib_module_names and node in tree.body:
                outside.add(first)
    return outside, rooms, anywhere


@pytest.mark.parametrize("room", ROOMS)
def test_what_each_room_imports(room):
    outside, rooms, anywhere = imports(room)
    assert outside <= set(IMPORTS[room].split()), f"{room} newly imports {outside - set(IMPORTS[room].split())}"
    assert not {r for r in rooms if ROOMS.index(r) >= ROOMS.index(room)}, "a room imports earlier rooms only"
    if room in VIEWS:
        assert not anywhere & set(DOERS), "a view imports what trains"


def least_cpu_seconds(*command):
    def once():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return min(once() for _ in range(3))


def test_importing_and_help_answer_at_once():
    assert least_cpu_seconds(sys.executable, "-c", "import spurious_rlvr") <= 0.3
    assert least_cpu_seconds(sys.executable, "-c", "from spurious_rlvr.cli import main; main()", "--help") <= 0.5


@pytest.mark.parametrize("name", ["ci.yml", "release.yml"])
def test_workflows_parse_and_run_what_there_is(name):
    yaml = pytest.importorskip("yaml")
    flow = yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text())
    console = {entry: True for entry in ("nbdev_docs", "python", "sudo", "version=$(python", "test", "grep")}
    for job in flow["jobs"].values():
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            for line in step.get("run", "").splitlines():
                words = line.split()
                script = words[1] if words[0] == "bash" else words[0]
                assert script in console or (ROOT / script).is_file(), line
    text = (ROOT / ".github" / "workflows" / name).read_text()
    if name == "release.yml":
        assert flow["jobs"]["publish"]["permissions"] == {"id-token": "write"} and "secrets." not in text
    else:
        assert "quarto-dev/quarto-actions/setup" in text and "nbdev_docs" in text


def test_the_light_dependencies_are_some_of_all():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    light = set(project["dependency-groups"]["light"])
    assert light - {"tokenizers>=0.22"} <= set(project["project"]["dependencies"])  # tokenizers comes with transformers
    assert not {re.split(r"[=<>]", w)[0] for w in light} & HEAVY


def test_raising_pins_names_what_moved_and_keeps_the_rest():
    sys.path.insert(0, str(ROOT / "tools"))
    import raise_pins

    text = "# tested\nnumpy==2.0\nTorch_Extra==1.0\ngone==1\n"
    pins = raise_pins.read_pins(text)
    new = {"numpy": "numpy==2.1", "torch-extra": "torch-extra==1.0", "other": "other==3"}
    assert raise_pins.installed([{"name": "Torch_Extra", "version": "1.0+cpu"}]) == {"torch-extra": "torch-extra==1.0"}
    assert raise_pins.moved(pins, new) == {"numpy": ("2.0", "2.1")}
    assert raise_pins.written(text, {"numpy": "numpy==2.1"}) == "# tested\nnumpy==2.1\nTorch_Extra==1.0\ngone==1\n"
    assert (
        "numpy" not in raise_pins.constraints(pins, {"numpy"})
        and "gone==1" in raise_pins.constraints(pins, {"numpy"})
        and not raise_pins.constraints(pins, None).strip()
    )


def test_the_benchmark_history_reads():
    for line in (ROOT / "benchmarks" / "history.jsonl").read_text().splitlines():
        run = json.loads(line)
        assert {"date", "commit", "machine", "versions", "command", "seconds", "status", "output"} <= run.keys() and (
            ROOT / "benchmarks" / run["command"][0]
        ).is_file()


def test_types_are_shipped_and_the_licence_covers_the_weights():
    assert (PACKAGE / "py.typed").is_file()
    notice = " ".join((ROOT / "NOTICE").read_text().split())
    assert "weights in spurious_rlvr/weights" in notice
    for folder in sorted((PACKAGE / "weights").iterdir()):
        assert "Apache-2.0" in (folder / "card.md").read_text()
