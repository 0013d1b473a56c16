"The project's own promises: one version, light imports, complete packages."
import ast, configparser, json, re, subprocess, sys, tomllib
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT/"spurious_rlvr"
LIGHT = "core tasks grading behavior rewards runs compare clipbias plots widgets cli".split()
ROOMS = "core tasks grading behavior rewards objective runs policy rollout evaluate plan train replay organisms compare clipbias plots widgets studies audit cli".split()
HEAVY = {"torch", "transformers", "vllm", "accelerate", "peft", "deepspeed", "ray", "datasets"}


def test_settings_and_pyproject_agree():
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(ROOT/"settings.ini")
    settings, project = settings["DEFAULT"], tomllib.loads((ROOT/"pyproject.toml").read_text())["project"]
    assert settings["lib_name"] == project["name"]
    assert settings["description"] == project["description"]
    assert ">=" + settings["min_python"] == project["requires-python"]
    assert settings["git_url"] == project["urls"]["Repository"]
    assert re.search(rf'__version__ = "{re.escape(settings["version"])}"', (PACKAGE/"__init__.py").read_text())


def test_citation_and_changelog_name_the_version():
    import spurious_rlvr
    assert f"version: {spurious_rlvr.__version__}" in (ROOT/"CITATION.cff").read_text()
    assert f"## {spurious_rlvr.__version__}" in (ROOT/"CHANGELOG.md").read_text()


def test_links_resolve():
    assert json.dumps(None) and (ROOT/"nbs"/"_quarto.yml").resolve() == ROOT/"_quarto.yml"
    assert (PACKAGE/"tutorials").resolve() == ROOT/"nbs"/"tutorials"


def test_every_tested_dependency_is_pinned():
    pins = {re.split(r"[=<>\[ ]", line)[0].lower().replace("_", "-") for line in (ROOT/"constraints.txt").read_text().splitlines() if line and not line.startswith("#")}
    project = tomllib.loads((ROOT/"pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"] + project["optional-dependencies"]["ray"] + project["optional-dependencies"]["peft"]
    missing = {name for name in (re.split(r"[=<>\[ ]", w)[0].lower().replace("_", "-") for w in wanted) if name not in pins}
    assert not missing


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_exists_and_states_its_duty(room):
    assert ast.get_docstring(ast.parse((PACKAGE/f"{room}.py").read_text()))


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
    with pytest.raises(AttributeError, match="nothing_here"): spurious_rlvr.nothing_here


def test_help_needs_nothing_heavy():
    code = "import sys; from spurious_rlvr.cli import app; app(['--help'], standalone_mode=False); print(*{m.split('.')[0] for m in sys.modules}, file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(result.stderr.split()) & (HEAVY | {"pandas", "matplotlib"}) and "demo" in result.stdout
