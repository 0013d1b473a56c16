"""Every widget in one real JupyterLab: run, step, filter, watch a training of another process, work while a cell is
busy, stop a generation, save."""

import json
import os
import pathlib
import subprocess
import sys
import textwrap
import time

import pytest
from lab_harness import Notebook, jupyterlab, write_notebook
from pace import PATIENCE

from spurious_rlvr.runs import read_run

pytestmark = pytest.mark.browser

TRAINER = textwrap.dedent("""
    import dataclasses, sys, time, torch
    torch.set_num_threads(1)
    from spurious_rlvr import organisms
    from spurious_rlvr.train import PRESETS, train
    def train_one(place, seed, phases, pause): # a reward that takes its time, so that there is something to watch
        def coin(prompts, completions, **columns):
            time.sleep(pause)
            return [float(hash((seed, text)) % 2) for text in completions]
        changes = dict(phases=phases, prompts_per_phase=8, num_generations=4, minibatch_size=8, seed=seed)
        config, problems = dataclasses.replace(PRESETS["organism"], **changes), organisms.training_problems(64)
        policy, settings = organisms.load("qwen-like"), dict(progress=False, describe=dict(arm="coin"))
        train(policy, problems, coin, config, place, **settings)
""")
TRAINING = (
    TRAINER + 'for seed in range(int(sys.argv[2])): train_one(f"{sys.argv[1]}{seed}", seed, int(sys.argv[3]),'
    " float(sys.argv[4]))\n"
)
CELLS = [
    TRAINER
    + """
import threading, time, torch
torch.set_num_threads(1)
from spurious_rlvr.policy import random_policy
from spurious_rlvr.rollout import TransformersEngine
from spurious_rlvr.widgets import *
class Endless(TransformersEngine): # a real engine whose completions do not end by themselves
    def stream(self, request, *, forbidden_ids=(), **settings):
        forbidden_ids = (*forbidden_ids, *self.policy.end_ids)
        for token in super().stream(request, forbidden_ids=forbidden_ids, **settings):
            time.sleep(.004)
            yield token
""",
    "explorer = ClipExplorer(num_generations=4, minibatches=4)\nexplorer",
    "stepper = RolloutStepper('runs/done0')\nstepper",
    "watching = watch('runs/live0', interval=.3)\nwatching",
    (
        "policy = random_policy(0, max_length=4096)\nprompt = LivePrompt(Endless(policy), policy, question='1 + 1 = ?',"
        " max_completion_length=4000)\nprompt"
    ),
    "compared = CompareRuns(['runs/done0', 'runs/done1'])\ncompared",
]


def training(home, name, runs, phases, pause):
    return subprocess.Popen(
        [sys.executable, "-c", TRAINING, str(home / "runs" / name), str(runs), str(phases), str(pause)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def book(chromium, tmp_path_factory):
    "The notebook, opened and run once."
    home = tmp_path_factory.mktemp("lab")
    made = training(home, "done", 2, 4, 0)
    write_notebook(home / "views.ipynb", [source.strip() for source in CELLS])
    with jupyterlab(home) as address:
        _, faults = made.communicate(timeout=120)
        assert made.returncode == 0, faults[-2000:]
        page, errors = chromium.new_page(viewport=dict(width=1400, height=1000)), []
        page.on("pageerror", lambda error: errors.append(str(error)))
        book = Notebook(page, address, "views.ipynb")
        book.home, book.errors = home, errors
        book.run_all()
        for name in ("clip-explorer", "rollout-stepper", "live-prompt", "compare-runs"):
            page.wait_for_selector(f".{name}", timeout=90_000)
        yield book
        page.close()


def shot(page, selector, name):
    if folder := os.environ.get("SPURIOUS_RLVR_SCREENSHOTS"):
        page.locator(selector).first.scroll_into_view_if_needed()
        page.screenshot(path=pathlib.Path(folder) / f"lab_{name}.png")


def stepper(page):
    return page.locator(".rollout-stepper").first


def ready(page, view, seconds=90):  # the rollout that is asked for is there
    handle = view.element_handle()
    page.wait_for_function(
        "(node) => node.dataset.shown && !node.dataset.shown.endsWith('waiting')", arg=handle, timeout=1000 * seconds
    )
    return handle.get_attribute("data-shown")


def test_every_widget_is_shown(book):
    assert book.page.locator(".rollout-stepper").count() == 2  # the stepper and the watched run
    for name in ("clip-explorer", "rollout-stepper", "live-prompt", "compare-runs"):
        shot(book.page, f".{name}", name)
    assert book.errors == []


def test_stepping_and_filtering(book):
    page, view = book.page, stepper(book.page)
    first = ready(page, view)
    view.locator(".text").focus()
    words = view.locator(".count").last
    before = words.text_content()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert words.text_content() != before  # an arrow key steps, and does not move to another cell of the notebook
    page.keyboard.press("n")
    assert ready(page, view) != first
    total = view.locator(".passing").text_content()
    button = view.locator("[data-filter=code]")
    count = int(button.locator("b").text_content().replace(",", ""))
    run = read_run(book.home / "runs" / "done0")
    assert 0 < count <= int(run.rollouts()["writes_code"].sum())
    button.click()
    page.wait_for_function(
        "(node) => node.textContent.includes('found')", arg=view.locator(".passing").element_handle()
    )
    assert f"{count:,} rollouts found" in view.locator(".passing").text_content() != total
    button.click()
    ready(page, view)
    shown = view.locator(".text").evaluate("(node) => node.textContent")

    def seen(look):
        book.run(f"print('look {look}: the same', stepper.current['completion'] == {shown!r})")
        book.says(f"look {look}: the same")
        return page.locator(".jp-OutputArea-output pre:has-text('the same True')").count()

    assert any(map(seen, range(8))), (  # the page's messages come on a way of their own, a cell may overtake them
        f"Python does not see what the page shows: {shown!r}"
    )


def test_a_busy_cell_does_not_hold_the_page_up(book):
    page, view = book.page, stepper(book.page)
    ready(page, view)
    enough = book.home / "enough"
    book.run(f"import os\nwhile not os.path.exists({str(enough)!r}): sum(range(2000))\nprint('the cell is', 'done')")
    page.wait_for_function(
        "[...document.querySelectorAll('.jp-InputPrompt')].some((node) => node.textContent.includes('*'))"
    )
    began, slowest = time.monotonic(), 0.0
    options = view.locator("[data-pick=phase] option").evaluate_all("(nodes) => nodes.map((node) => node.value)")
    for value in options[:3]:  # rows of phases that the page has not got yet: the kernel reads them while the cell runs
        asked = time.monotonic()
        view.locator("[data-pick=phase]").select_option(value)
        ready(page, view)
        slowest = max(slowest, time.monotonic() - asked)
    page.locator(".compare-runs .chart").press("Home")
    page.keyboard.press("Enter")
    page.wait_for_selector(".compare-runs .rollout", timeout=90_000)
    prompt = page.locator(".live-prompt")
    prompt.locator("[data-action=free]").click()
    page.wait_for_function("document.querySelectorAll('.live-prompt [data-token]').length > 20", timeout=90_000)
    asked = time.monotonic()
    prompt.locator("[data-action=stop]").click()
    page.wait_for_function("document.querySelector('.live-prompt').dataset.running === 'no'", timeout=90_000)
    stopped = time.monotonic() - asked
    busy = not page.locator(".jp-OutputArea-output pre:has-text('the cell is done')").count()
    print(
        f"beside a busy cell: the slowest of {len(options[:3])} pages {slowest:.2f} s, stop {stopped:.2f} s, all within"
        f" {time.monotonic() - began:.1f} s"
    )
    assert busy, "the cell was over before the page had been tried"
    assert slowest < 3 * PATIENCE and stopped < 3 * PATIENCE
    enough.touch()
    book.says("the cell is done", timeout=90_000)
    assert book.errors == []


def test_a_generation_is_stopped_at_once(book):
    page, prompt = book.page, book.page.locator(".live-prompt")
    prompt.scroll_into_view_if_needed()
    prompt.locator("[data-setting=samples]").fill("2")
    prompt.locator("[data-action=free]").click()
    page.wait_for_function("document.querySelectorAll('.live-prompt [data-token]').length > 60", timeout=90_000)
    shot(page, ".live-prompt", "live-writing")
    page.evaluate(
        """() => { globalThis.stopped = new Promise((done) => {
          const root = document.querySelector('.live-prompt'), began = performance.now();
          root.querySelector('[data-action=stop]').click();
          const seen = () => root.querySelectorAll('[data-token]').length, first = seen();
          const wait = () => {
            if (root.dataset.running === 'no') done([performance.now() - began, first, seen()]);
            else setTimeout(wait, 5);
          };
          wait();
        }); }"""
    )
    milliseconds, first, last = page.evaluate("() => globalThis.stopped")
    print(f"stopped after {milliseconds:.0f} ms; {first} tokens on the page then, {last} at the end")
    assert milliseconds < 1500 * PATIENCE and last - first <= 40 * PATIENCE
    cards = page.evaluate(
        """() => [...document.querySelectorAll('.live-prompt .sample')].map((card) => [
          card.dataset.finish,
          card.querySelector('.facts').textContent,
          card.querySelector('.span-text').textContent,
        ])"""
    )
    assert [finish for finish, _, _ in cards] == ["stopped", "stopped"], cards
    counts = [int(facts.split(" token")[0]) for _, facts, _ in cards]
    assert not any("writing" in facts for _, facts, _ in cards) and min(counts) > 20
    book.run(
        f"print('the page has all:', prompt.rollouts['token_ids'].map(len).tolist() == {counts},"
        f" prompt.rollouts['completion'].tolist() == {[text for *_, text in cards]!r})"
    )
    book.says("the page has all: True True")
    book.run(
        "print('sampled', len(prompt.rollouts), set(prompt.rollouts['finish_reason']), 'engine free:',"
        " engine_lock(prompt.engine).acquire(timeout=1))"
    )
    book.says("sampled 2 {'stopped'} engine free: True")
    book.run("engine_lock(prompt.engine).release(); explorer.prior = 0.35")
    page.wait_for_function(
        "JSON.parse(document.querySelector('.clip-explorer').dataset.settled).prior === 0.35", timeout=90_000
    )


def test_watching_a_training_of_another_process(book):
    page, view = book.page, book.page.locator(".rollout-stepper").nth(1)
    view.scroll_into_view_if_needed()
    process = training(book.home, "live", 1, 8, 0.6)
    try:

        def phases():
            return view.locator("[data-pick=phase] option").count()

        page.wait_for_function(
            "() => document.querySelectorAll('.rollout-stepper')[1].querySelectorAll('[data-pick=phase] option').length"
            " >= 2",
            timeout=60_000,
        )
        assert process.poll() is None  # it is still being trained
        seen, gaps, until = [phases()], [], time.monotonic() + 4
        while time.monotonic() < until:  # the page answers while the run grows
            asked = time.monotonic()
            view.locator(".text").focus()
            page.keyboard.press("ArrowRight")
            gaps.append(time.monotonic() - asked)
            seen.append(phases())
            page.wait_for_timeout(60)
        shot(page, ".rollout-stepper >> nth=1", "watch")
        assert seen[-1] > seen[0] and process.poll() is None
        _, faults = process.communicate(timeout=90)
        assert process.returncode == 0, faults[-2000:]
        page.wait_for_function(
            "() => document.querySelectorAll('.rollout-stepper')[1].querySelectorAll('[data-pick=phase] option').length"
            " === 8",
            timeout=90_000,
        )
        print(
            f"{len(gaps)} steps while the run grew from {seen[0]} to {seen[-1]} phases: median"
            f" {1000 * sorted(gaps)[len(gaps) // 2]:.0f} ms, largest {1000 * max(gaps):.0f} ms"
        )
        assert sorted(gaps)[len(gaps) // 2] < 0.5 * PATIENCE
    finally:
        if process.poll() is None:
            process.kill()


def test_watching_a_training_in_the_very_same_cell(book):
    """The page grows, follows and answers while the cell that shows it trains; rows of an earlier phase come from the
    busy kernel."""
    page, views = book.page, book.page.locator(".rollout-stepper")
    place = views.count()
    book.run(
        "here = watch('runs/here', interval=.2); display(here); train_one('runs/here', 0, 9, .7); print('trained in',"
        " 'this cell')"
    )
    own, busy = (
        f"document.querySelectorAll('.rollout-stepper')[{place}]",
        "[...document.querySelectorAll('.jp-InputPrompt')].some((node) => node.textContent.includes('*'))",
    )
    newest = f"{own}.querySelector('[data-pick=phase]')"
    page.wait_for_function(
        f"() => {own} && {newest}.options.length >= 2 && {newest}.selectedIndex === {newest}.options.length - 1",
        timeout=60_000,
    )  # it follows
    view = views.nth(place)
    assert (
        page.evaluate(busy)
        and "running" in view.locator(".pulse").text_content()
        and view.locator(".curves figure").count() >= 5
    )
    assert (
        read_run(book.home / "runs" / "here").rollouts(1)["completion"].str.strip().str.len().max() > 0
        and view.locator(".text").text_content().strip()
    )
    view.locator("[data-pick=phase]").select_option(index=0)
    ready(page, view)
    gaps = []
    for key in ("n", "ArrowRight", "n", "b", "g"):
        asked = time.monotonic()
        view.locator(".text").focus()
        page.keyboard.press(key)
        gaps.append(time.monotonic() - asked)
    ready(page, view)
    shot(page, f".rollout-stepper >> nth={place}", "watch-same-cell")
    assert page.evaluate(busy), "the training was over before the page had been tried"
    assert (
        view.locator("[data-pick=phase]").evaluate("(node) => node.selectedIndex") == 0
    )  # looking elsewhere ends the following
    book.says("trained in this cell", timeout=60_000)
    page.wait_for_function(
        f"() => {newest}.options.length === 9 && {own}.querySelector('.pulse').textContent.includes('finished')",
        timeout=90_000,
    )
    print(f"beside the training of its own cell: a key within {1000 * max(gaps):.0f} ms at most")
    assert max(gaps) < PATIENCE and book.errors == []


def save(book):
    "Saves the notebook with its widgets; gives what was saved."
    book.page.keyboard.press("Escape")
    book.menu("File", "Save Notebook")
    for _ in range(360):
        saved = json.loads((book.home / "views.ipynb").read_text())
        if saved["metadata"].get("widgets"):
            return saved
        book.page.wait_for_timeout(250)
    raise AssertionError("the notebook was not saved with its widgets")


def test_what_the_notebook_saves_is_capped(book):
    saved, path = save(book), book.home / "views.ipynb"
    states = saved["metadata"]["widgets"]["application/vnd.jupyter.widget-state+json"]["state"].values()
    sizes = {}
    for model in states:
        if "_esm" in model["state"]:
            sizes.setdefault(model["state"]["_anywidget_id"].rpartition(".")[2], []).append(
                len(json.dumps({name: value for name, value in model["state"].items() if name not in ("_esm", "_css")}))
            )
    print("saved:", sizes, f"the whole file {path.stat().st_size / 1e6:.2f} MB")
    assert {"ClipExplorer", "RolloutStepper", "RunWatch", "LivePrompt", "CompareRuns"} <= set(sizes)
    assert (
        max(sizes["LivePrompt"]) <= 215_000
        and max(sizes["CompareRuns"]) <= 260_000
        and max(size for each in sizes.values() for size in each) <= 500_000
    )
    assert path.stat().st_size < 5_000_000
    assert book.errors == []


def test_after_a_reload_the_views_come_back(book):
    "The page is loaded anew: views find their kernel again, with the last samples, and can be asked."
    page = book.page
    save(book)
    page.reload()
    page.wait_for_selector(".live-prompt", timeout=60_000)
    page.wait_for_function("document.querySelectorAll('.live-prompt [data-token]').length > 20", timeout=90_000)
    prompt = page.locator(".live-prompt")
    prompt.locator("[data-setting=max_completion_length]").fill("12")
    prompt.locator("[data-action=free]").click()
    page.wait_for_function(
        "document.querySelector('.live-prompt .status').textContent === 'Done: 12 tokens.'", timeout=90_000
    )
    assert book.errors == []
