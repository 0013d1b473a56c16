"""The command line as a newcomer meets it: every help teaches, every mistake is one line, and what is edited is never
overwritten."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from spurious_rlvr import cli

COMMANDS = get_command(cli.app).commands
PROGRAM = str(Path(sys.executable).parent / "spurious-rlvr")


def examples(name):
    lines = COMMANDS[name].epilog.splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("  spurious-rlvr ")]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_teaches(name):
    shown = CliRunner().invoke(cli.app, [name, "--help"]).output
    assert f"  spurious-rlvr {name}" in shown and len(COMMANDS[name].help.splitlines()[0]) > 20
    for parameter in COMMANDS[name].params:
        if parameter.name != "help":
            assert getattr(parameter, "help", None), parameter.name


@pytest.mark.parametrize(
    "name, given",
    [(name, given) for name in COMMANDS for given in examples(name)],
    ids=lambda part: part if isinstance(part, str) else " ".join(part),
)
def test_every_example_parses(name, given):
    assert given[0] == name
    COMMANDS[name].make_context(name, list(given[1:]))  # raises where an option or an argument is not there


MISTAKES = [
    ("show nowhere", "run.json"),
    ("show coin/run.json", "give its folder"),
    ("view nowhere", "nowhere"),
    ("view coin/run.json", "give its folder"),
    ("view coin/metrics.jsonl", "give its folder"),
    ("view text.txt", "text.txt"),
    ("export nowhere policy", "nowhere"),
    ("export coin there", "exists already"),
    ("export coin fresh --checkpoint 7", "no checkpoint"),
    ("evaluate nowhere --benchmark chains:4:1", "--out"),
    ("evaluate coin --benchmark nothing.jsonl", "nothing.jsonl"),
    ("evaluate qwen-like --benchmark chains:4:1 --protocol best", "best"),
    ("evaluate qwen-like --benchmark chains:4:1 --out e --set samples", "NAME=VALUE"),
    ("train qwen-like coin --out t", "coin"),
    ("train qwen-like random:7 --out t", "random"),
    ("train qwen-like random:0.5 --out there", "exists already"),
    ("train qwen-lik random:0.5 --out t", "qwen-like"),
    ("train qwen-like random:0.5 --out t --set clipp=none", "clip"),
    ("train qwen-like random:0.5 --out t --set phases=many", "phases"),
    ("train qwen-like random:0.5 --out t --problems nothing.jsonl", "nothing.jsonl"),
    ("train qwen-like random:0.5 --out t --engine gpu", "--engine"),
    ("train qwen-like python:no_module:reward --out t", "no_module"),
    ("train qwen-like random:0.5 --out text.txt/t", "text.txt"),
    ("train ./nowhere random:0.5 --out t --problems chains:4", "no such folder"),
    ("train coin random:0.5 --out t --problems chains:4", "spurious-rlvr export coin"),
    ("train random:0.5 qwen-like --out t", "train qwen-like random:0.5"),
    ("train qwen-like my_module:my_reward --out t", "python:module:function"),
    ("train qwen-like random:0.5 --out t --problems named.jsonl", "name the column"),
    (
        "train qwen-like random:0.5 --out t --problems named.jsonl --question-field a --gold-field c",
        "no gold; looked for c",
    ),
    ("plan --model qwen-like", "organism"),
    ("plan --model Qwen/Qwen2.5-0.5B --gpu h300", "--memory"),
    ("study figure-99", "figure-99"),
    ("study clip --only nothing=1 --dry-run", "nothing"),
    ("audit", "--reward"),
    ("audit --reward coin --dry-run", "coin"),
    ("audit --from-evals before", "before"),
    ("scorecard nothing", "nothing"),
    ("plan --model nobody/nothing-7b", "nobody/nothing-7b"),
    ("plan --model Qwen/Qwen2.5-Math-7B --gpu abacus", "abacus"),
    ("lab text.txt --copy-only", "text.txt"),
    ("lab text.txt/x --copy-only", "text.txt"),
    ("lab x -- --ip=0.0.0.0", "ssh"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder with a small run, a full folder and a file that is nothing."
    from spurious_rlvr.runs import create_run

    folder = tmp_path_factory.mktemp("place")
    create_run(folder / "coin", config={}, reward="random:0.5")
    (folder / "coin" / "metrics.jsonl").write_text("")
    (folder / "there").mkdir()
    for name in ("there/mine.txt", "text.txt"):
        (folder / name).write_text("mine")
    (folder / "named.jsonl").write_text('{"a": "What is 1 + 1?", "b": "2"}\n')
    return folder


@pytest.mark.parametrize("typed, named", MISTAKES, ids=[typed for typed, _ in MISTAKES])
def test_a_mistake_is_one_line_and_leaves_nothing_behind(place, monkeypatch, typed, named):
    monkeypatch.chdir(place)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = sorted(place.rglob("*"))
    result = CliRunner().invoke(cli.app, shlex.split(typed))
    assert result.exit_code == 2, (result.output, result.exception)
    said = [line for line in result.stderr.splitlines() if line.startswith("spurious-rlvr: ")]
    assert len(said) == 1 and named in said[0], result.stderr
    lines = result.stderr.splitlines()
    pointed = lines[lines.index(said[0]) + 1 :]  # a reward that cannot be read is shown with a mark under the place
    assert not pointed or (pointed[0].strip() in typed and pointed[1].strip() == "^" and len(pointed) == 2), (
        result.stderr
    )
    assert sorted(place.rglob("*")) == before


def test_a_run_goes_on_with_its_own_settings_and_an_organism_is_evaluated_as_one(tmp_path, monkeypatch):
    from spurious_rlvr.runs import read_run

    monkeypatch.chdir(tmp_path)
    begun = ["train", "qwen-like", "random:0.5", "--out", "coin"]
    tiny = [
        part
        for setting in ("phases=2", "prompts_per_phase=2", "num_generations=4", "minibatch_size=4", "seed=5")
        for part in ("--set", setting)
    ]
    assert CliRunner().invoke(cli.app, begun + tiny).exit_code == 0
    assert CliRunner().invoke(cli.app, begun + ["--resume"]).exit_code == 0
    assert read_run("coin").of_kind("phase")["phase"].tolist() == [1, 2]  # not the 25 of the preset
    assert CliRunner().invoke(cli.app, begun + ["--resume", "--set", "phases=3"]).exit_code == 0
    assert read_run("coin").of_kind("phase")["phase"].tolist() == [1, 2, 3]
    refused = CliRunner().invoke(cli.app, begun + ["--resume", "--set", "seed=6"])
    assert refused.exit_code == 2 and "seed is 6 and was 5" in refused.stderr
    said = CliRunner().invoke(cli.app, ["evaluate", "coin", "--benchmark", "chains:4:1:2-4"])
    assert said.exit_code == 0 and "name='organism'" in said.output


def test_a_file_that_may_not_be_read_is_one_line(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(tmp_path / "secret"))

    monkeypatch.setattr(cli, "_point_at_folder", refuse)
    result = CliRunner().invoke(cli.app, ["show", str(tmp_path)])
    assert result.exit_code == 2 and result.stderr == f"spurious-rlvr: {tmp_path}/secret: Permission denied\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_options_and_names(shell):
    def complete(*words):
        place = {
            "bash": {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)},
            "zsh": {"_TYPER_COMPLETE_ARGS": " ".join(words)},
            "fish": {"_TYPER_COMPLETE_ARGS": " ".join(words), "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
        }[shell]
        return subprocess.run(
            [PROGRAM],
            env=os.environ | place | {"_SPURIOUS_RLVR_COMPLETE": f"complete_{shell}"},
            capture_output=True,
            text=True,
        ).stdout

    assert "train" in complete("spurious-rlvr", "tr") and "demo" not in complete("spurious-rlvr", "tr")
    assert "--held-out" in complete("spurious-rlvr", "train", "--he")
    assert "llama-like" in complete("spurious-rlvr", "train", "ll")
    assert "ground_truth" in complete("spurious-rlvr", "train", "qwen-like", "gr")
    assert "math500" in complete("spurious-rlvr", "evaluate", "--benchmark", "ma")
    assert "official_code" in complete("spurious-rlvr", "plan", "--preset", "off")


def test_the_names_that_completion_offers_exist():
    from spurious_rlvr import organisms, studies
    from spurious_rlvr.policy import REAL_MODELS
    from spurious_rlvr.train import PRESETS

    assert set(cli._organism_names("")) == {*organisms.RECIPES, "smollm2-135m"} and "smollm2-135m" in REAL_MODELS
    offered = {
        p.name: {c.value for c in p.shell_complete(None, "")}
        for p in COMMANDS["train"].params + COMMANDS["study"].params
        if p.name in ("preset", "size")
    }
    assert offered == {"preset": set(PRESETS), "size": set(studies.SIZES)}


def test_tutorials_are_copied_whole_and_edits_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(cli.app, ["lab", "--copy-only"]).exit_code == 0
    copied = sorted(p.name for p in (tmp_path / "spurious-rlvr-tutorials").glob("*.ipynb"))
    tutorials = sorted(p.name for p in (Path(cli.__file__).parent / "tutorials").glob("*.ipynb"))
    assert copied == sorted([*tutorials, "index.ipynb"])
    texts = [path.read_text() for path in (tmp_path / "spurious-rlvr-tutorials").glob("*.ipynb")]
    assert not any("](../" in text for text in texts)  # nothing stands above them there
    mine = tmp_path / "spurious-rlvr-tutorials" / copied[0]
    mine.write_text("mine")
    again = CliRunner().invoke(cli.app, ["lab", "--copy-only"])
    assert mine.read_text() == "mine" and f"Kept as you left them: {copied[0]}." in again.output


def test_without_jupyterlab_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = cli.importlib.util.find_spec
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: None if name == "jupyterlab" else found(name))
    result = CliRunner().invoke(cli.app, ["lab"])
    assert (
        result.exit_code == 2
        and "pip install jupyterlab" in result.stderr
        and result.stderr.count("\n") == 1
        and not list(tmp_path.iterdir())
    )


def test_jupyterlab_opens_in_the_folder_on_this_machine_only(tmp_path):
    pytest.importorskip("jupyterlab", reason="needs the dev extra: pip install -e .[dev]")
    environment = os.environ | {
        "HOME": str(tmp_path),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "PYTHONUNBUFFERED": "1",
    }
    process = subprocess.Popen(
        [
            PROGRAM,
            "lab",
            "mine",
            "--no-browser",
            "--port",
            "18931",
            "--",
            "--IdentityProvider.token=word",
            "--ServerApp.base_url=/gpu/",
        ],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        until, notes = time.time() + 90, []
        while not notes and process.poll() is None and time.time() < until:
            time.sleep(0.3)
            notes = list((tmp_path / "runtime").glob("jpserver-*.json"))
        assert notes, process.communicate(timeout=5)[0] if process.poll() is not None else "no server after 90 s"
        server = json.loads(notes[0].read_text())
        assert (
            server["hostname"] == "127.0.0.1"
            and server["base_url"] == "/gpu/"
            and Path(server["root_dir"]) == tmp_path / "mine"
        )
        listed = json.loads(
            urllib.request.urlopen(f"http://127.0.0.1:{server['port']}/gpu/api/contents?token=word", timeout=30).read()
        )
        assert {entry["name"] for entry in listed["content"]} >= {
            p.name for p in (Path(cli.__file__).parent / "tutorials").glob("*.ipynb")
        }
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def test_a_folder_of_ones_own_is_planned_by_its_whole_path(tmp_path, monkeypatch):
    "An absolute path is no organism, though joined to a folder's name it is a folder that exists."
    from spurious_rlvr.policy import random_policy

    random_policy().model.save_pretrained(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    for given in (str(tmp_path / "mine"), "mine", "./mine"):
        said = CliRunner().invoke(cli.app, ["plan", "--model", given])
        assert said.exit_code == 0 and "in this machine's memory" in said.stdout, said.output
    said = CliRunner().invoke(cli.app, ["plan", "--model", "mine", "--device", "h100", "--preset", "paper"])
    assert "on one GPU" in said.stdout


def test_an_audit_whose_prompts_do_not_fit_ends_before_anything_is_sampled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed = "audit --reward boxed_format --model qwen-like --quick --out a --set max_prompt_length=3"
    said = CliRunner().invoke(cli.app, shlex.split(typed))
    [line] = [line for line in said.stderr.splitlines() if line.startswith("spurious-rlvr: ")]
    assert said.exit_code == 2 and "the shortest prompt has" in line and not (tmp_path / "a").exists()


def test_a_study_shows_the_prompt_that_it_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("Q {question}", encoding="utf-8")
    said = CliRunner().invoke(cli.app, shlex.split("study clip --dry-run --template mine.txt --seeds 1"))
    assert said.exit_code == 0 and "Q {question}" in said.stdout, said.output
