"""The rollout stepper in a real Chromium: without kernel and network, with a kernel's answers, on hostile text, on
large runs, on a run that is being written."""

import contextlib
import json
import pathlib
import subprocess
import sys
import threading
import time
import urllib.parse

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pace import PATIENCE
from typer.testing import CliRunner

from spurious_rlvr import cli, widgets
from spurious_rlvr.core import Rollout, keyed_rng
from spurious_rlvr.runs import create_run
from spurious_rlvr.widgets import RolloutStepper, RunWatch, watch

browser = pytest.mark.browser
WORDS = ["the", "answer", "is", "forty", "two", "so", "we", "print", "it", "."]


# ---------------------------------------------------------------- rollouts of the tests' own making


def rollout(phase, group, sample, rng, *, groups):
    """A rollout whose tokens are words, with everything that training records; more code and more right answers as
    phases pass."""
    code, gold = rng.random() < (0.2 if phase < 2 else 0.9), str(10 + group)
    answer = gold if rng.random() < 0.5 + 0.1 * phase else "7"
    text = (
        f"Let us compute it.\n```python\nprint({answer})\n```\n```output\n{answer}\n```\nSo it is \\boxed{{{answer}}}"
        if code
        else f"We think that it is \\boxed{{{answer}}}"
    )
    count = len(text.split(" "))
    old = (-rng.exponential(0.5, count)).round(4).tolist()
    reward = float(rng.random() < 0.5)
    return Rollout(
        phase,
        group,
        sample,
        f"problem-{group % groups}",
        f"What is {group} + 10?",
        text,
        gold,
        list(range(count)),
        [v - 0.01 for v in old],
        "stop",
        answer=answer,
        correct=answer == gold,
        reward=reward,
        rewards={"coin": reward, "format": 1.0},
        advantage=reward - 0.5,
        update=0,
        logprob_old=old,
        logprob_new=[v + 0.1 for v in old],
        clip_side=[int(i == 1 and reward > 0) for i in range(count)],
        out_of_band=[0] * count,
        entropy=rng.random(count).round(4).tolist(),
        mentions_python=code,
        writes_code=code,
    )


def write_run(path, phases=3, groups=4, samples=4, finish=True):
    writer = create_run(path, model=dict(name="made"))
    writer.log("status", status="started")
    for phase in range(1, phases + 1):
        write_phase(writer, phase, groups, samples)
    if finish:
        writer.log("status", status="finished")
    return writer


def write_phase(writer, phase, groups=4, samples=4):
    rng = keyed_rng(3, "stepper", phase)
    rows = [rollout(phase, group, sample, rng, groups=groups) for group in range(groups) for sample in range(samples)]
    writer.write_rollouts(phase, rows)
    writer.log(
        "phase",
        phase=phase,
        reward=float(np.mean([r.reward for r in rows])),
        accuracy=float(np.mean([r.correct for r in rows])),
        code_share=float(np.mean([r.writes_code for r in rows])),
        clip_fraction_high=0.1,
        clip_fraction_low=0.0,
        entropy=0.5,
        completion_length=8.0,
    )


class Words:
    "Stands in for a tokenizer whose tokens are the words of one text."

    def __init__(self, text):
        self.pieces = [word if i == 0 else f" {word}" for i, word in enumerate(text.split(" "))]

    def decode(self, ids, **_):
        return "".join(self.pieces[i] for i in ids)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "made"
    write_run(path)
    return widgets.read_run(path)


# ---------------------------------------------------------------- pages


def wait_until(page, condition, timeout=30_000):
    "Until a condition holds in the page; asked from outside, since the page's own policy forbids it to evaluate text."
    end = time.monotonic() + timeout / 1000
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(20)


@contextlib.contextmanager
def open_page(chromium, address, script="", **settings):
    """A page without a network. Fails on any error, dialog, console message of a refused or failed script, or request
    to another place."""
    context = chromium.new_context(offline=True, **settings)
    page, faults = context.new_page(), []
    page.on("pageerror", lambda error: faults.append(f"error {error}"))
    page.on("dialog", lambda dialog: (faults.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on(
        "console",
        lambda message: faults.append(f"console {message.text}") if message.type in ("error", "warning") else None,
    )
    page.on(
        "request",
        lambda request: (
            faults.append(f"request {request.url}")
            if not request.url.startswith(("file:", "blob:", "data:", "about:"))
            else None
        ),
    )
    if script:
        page.add_init_script(script)
    page.goto(address)
    page.wait_for_selector(".rollout-stepper[data-shown]", timeout=60_000)
    try:
        yield page
    finally:
        context.close()
    assert faults == []


@contextlib.contextmanager
def static_page(chromium, folder, stepper, link="", script="", limit=400, **settings):
    path = folder / "page.html"
    path.write_text(stepper.to_html(page=True, limit=limit), encoding="utf-8")
    with open_page(chromium, f"{path.as_uri()}{'#' * bool(link)}{link}", script, **settings) as page:
        yield page


COPIES = (
    "globalThis.copied = []; Object.defineProperty(navigator, 'clipboard', { value: { writeText: async (text) => {"
    " copied.push(text); } } });"
)


def shown(page):
    return dict(urllib.parse.parse_qsl(page.evaluate("location.hash.slice(1)")))


def completion(page):
    return page.evaluate("document.querySelector('.text').textContent")


@contextlib.contextmanager
def live_page(chromium, stepper, **settings):
    "A page whose model is the widget itself: its messages go to Python and come back as a notebook would bring them."
    sent = []
    stepper.send = lambda content, buffers=None: sent.append((content, bytes(buffers[0]).decode("ascii")))
    context = chromium.new_context(**settings)
    page, faults = context.new_page(), []
    page.on("pageerror", lambda error: faults.append(str(error)))
    asked = []

    def kernel(content):
        asked.append(content)
        before = len(sent)
        stepper._handle_custom_msg(content, [])
        answers = sent[before:]
        del sent[before:]
        return answers

    page.expose_function("kernel", kernel)
    page.goto("about:blank")
    page.evaluate(
        """async ([esm, css, values]) => {
      document.head.append(Object.assign(document.createElement("style"), { textContent: css }));
      const listeners = new Map(), of = (event) => listeners.get(event) ?? listeners.set(event, new Set()).get(event);
      globalThis.deliver = (content, text) => {
        const bytes = new DataView(new TextEncoder().encode(text).buffer);
        for (const each of [...of("msg:custom")]) each(content, [bytes]);
      };
      const model = {
        get: (name) => values[name],
        set: (name, value) => { values[name] = value; for (const each of [...of(`change:${name}`)]) each(); },
        on: (e, l) => of(e).add(l), off: (e, l) => of(e).delete(l), save_changes: () => {},
        send: async (content) => { for (const [head, text] of await globalThis.kernel(content)) deliver(head, text); },
      };
      const module = await import(URL.createObjectURL(new Blob([esm], { type: "text/javascript" })));
      globalThis.model = model; globalThis.view = module.default;
      globalThis.cleanup = view.render({ model, el: document.body });
    }""",
        [stepper._esm, stepper._css, dict(head=stepper.head, link=stepper.link, live=True, page=False)],
    )
    page.wait_for_selector(".rollout-stepper[data-shown]")
    page.asked, page.sent = asked, sent
    try:
        yield page
    finally:
        context.close()
    assert faults == []


def deliver(page):  # what a watching thread has sent meanwhile
    while page.sent:
        content, text = page.sent.pop(0)
        page.evaluate("([content, text]) => deliver(content, text)", [content, text])
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


# ---------------------------------------------------------------- stepping, filtering, comparing without a kernel


@browser
def test_steps_without_a_kernel(chromium, tmp_path, run):
    rows = run.rollouts(3)
    with static_page(chromium, tmp_path, RolloutStepper(run), link="part=phase-3&group=0&sample=0") as page:
        assert completion(page) == rows.completion[0] and shown(page)["part"] == "phase-3"
        page.focus(".text")
        page.keyboard.press("n")
        page.keyboard.press("n")
        assert completion(page) == rows.completion[2] and shown(page)["sample"] == "2"
        page.keyboard.press("p")
        assert shown(page)["sample"] == "1"
        page.keyboard.press("j")
        assert shown(page)["group"] == "1" and shown(page)["sample"] == "0"
        page.keyboard.press("k")
        assert shown(page)["group"] == "0"
        page.keyboard.press("n")
        page.keyboard.press("[")
        page.keyboard.press("[")
        assert shown(page) == shown(page) | dict(
            part="phase-1", group="0", sample="1"
        )  # the same problem and sample there
        assert completion(page) == run.rollouts(1).completion[1]
        page.keyboard.press("]")
        assert shown(page)["part"] == "phase-2"
        page.click("button[aria-label^='next sample']")
        assert shown(page)["sample"] == "2"
        page.select_option("[data-pick=phase]", label="phase 3")
        assert shown(page)["part"] == "phase-3"


@browser
@pytest.mark.parametrize(
    "unit, texts",
    [
        ("word", ["Let", "us", "compute"]),
        ("line", ["print(7)", "7"]),
        ("sentence", ["Let us compute it.", "print(7)\n", "7\n"]),
    ],
)
def test_units(chromium, tmp_path, unit, texts):
    text = "Let us compute it.\n```python\nprint(7)\n```\n```output\n7\n```\nSo it is \\boxed{7}"
    now = "[...document.querySelectorAll('.text .now')].map((node) => node.textContent).join('')"
    with static_page(chromium, tmp_path, RolloutStepper([text]), link=f"unit={unit}") as page:
        page.focus(".text")
        seen = []
        for _ in texts:
            page.keyboard.press("ArrowRight")
            seen.append(page.evaluate(now))
            assert texts[len(seen) - 1].strip() in page.text_content(".spoken[role=status]").replace("⏎", "")
        assert [each.strip() for each in seen] == [each.strip() for each in texts]
        page.keyboard.press("End")
        last = page.evaluate(now)
        page.keyboard.press("ArrowRight")
        assert page.evaluate(now) == last
        page.keyboard.press("Home")
        assert page.evaluate(now).strip() == texts[0].strip()
        assert page.locator(".text [aria-current=step]").count() == 1


@browser
def test_code_output_and_answer_are_linked(chromium, tmp_path):
    text = "Let us compute it.\n```python\nprint(7)\n```\n```output\n7\n```\nSo it is \\boxed{7}"
    with static_page(chromium, tmp_path, RolloutStepper([text])) as page:
        assert page.eval_on_selector_all(".station b", "nodes => nodes.map((n) => n.textContent)") == [
            "reasoning",
            "code",
            "claimed output",
            "reasoning",
            "answer",
        ]
        page.focus(".text")
        visited = []
        for _ in range(3):
            page.keyboard.press("c")
            visited.append(
                page.evaluate("[...document.querySelectorAll('.text .now')].map((n) => n.textContent).join('').trim()")
            )
        assert visited == ["print(7)", "7", "7"]  # code, what it is said to have printed, the answer
        assert "claims the answer" in page.get_attribute(".station.is-output", "title")
        linked = page.evaluate("[...document.querySelectorAll('.text .linked')].map((n) => n.textContent).join('')")
        assert "print(7)" in linked and "Let us compute it." in linked  # the rest of the path is marked with it
        page.click(".station.is-code")
        assert page.text_content(".readout").startswith("“print(7)") and "parses" in page.text_content(".readout")


@browser
def test_filters_search_and_table(chromium, tmp_path, run):
    everything = run.rollouts()
    wrong = everything[(everything.reward == 1) & ~everything.correct]
    counted = {
        "code": int(everything.writes_code.sum()),
        "language": int((~everything.writes_code).sum()),
        "rewarded_wrong": len(wrong),
        "wrong": int((~everything.correct).sum()),
        "clipped_high": int(everything.clip_side.map(lambda sides: (np.array(sides) > 0).any()).sum()),
        "claims": int(everything.writes_code.sum()),
        "unrewarded_right": int(((everything.reward == 0) & everything.correct).sum()),
    }
    with static_page(chromium, tmp_path, RolloutStepper(run)) as page:
        counts = page.evaluate(
            "Object.fromEntries([...document.querySelectorAll('[data-filter]')].map((n) => [n.dataset.filter,"
            " Number(n.querySelector('b').textContent)]))"
        )
        assert {name: counts[name] for name in counted} == counted and counts["to_code"] > 0
        page.click("[data-filter=rewarded_wrong]")
        page.click("text=Table")
        assert f"{len(wrong)} rollout" in page.text_content(".passing")
        page.focus(".text")
        seen = []
        for _ in range(len(wrong)):
            page.keyboard.press("n")
            now = shown(page)
            seen.append((int(now["part"].split("-")[1]), int(now["group"]), int(now["sample"])))
        assert set(seen) == set(zip(wrong.phase, wrong.group, wrong["sample"]))
        page.click("[data-filter=code]")  # both
        both = int((everything.writes_code & (everything.reward == 1) & ~everything.correct).sum())
        assert page.locator(".panel tbody tr").count() == both
        page.click("[data-filter=code]")
        page.click("[data-filter=rewarded_wrong]")
        page.fill("input[type=search]", "PRINT(12)")
        wait_until(page, "location.hash.includes('q=PRINT')")
        hits = everything[everything.completion.str.contains("print(12)", regex=False)]
        assert page.locator(".panel tbody tr").count() == len(hits) and f"{len(hits)} rollout" in page.text_content(
            ".passing"
        )
        page.fill("input[type=search]", "")
        wait_until(page, "!location.hash.includes('q=')")
        page.click("th[data-column=tokens] button")

        def order():
            return [
                int(v)
                for v in page.eval_on_selector_all(
                    ".panel td[data-column=tokens]", "nodes => nodes.map((n) => n.textContent)"
                )
            ]

        lengths = sorted(everything.token_ids.map(len))
        assert order() == lengths[:40] and page.get_attribute("th[data-column=tokens]", "aria-sort") == "ascending"
        page.click("th[data-column=tokens] button")
        assert (
            order() == lengths[::-1][:40] and page.get_attribute("th[data-column=tokens]", "aria-sort") == "descending"
        )
        page.click(".panel tbody tr:nth-child(3)")
        assert page.locator(".panel tr[aria-selected]").count() == 1


@browser
def test_same_problem_before_and_after(chromium, tmp_path):
    rows = [
        dict(
            phase=phase,
            prompt=f"problem {problem}",
            completion="print(1)" if (phase, problem) == (2, 1) else "It is 1.",
            reward=1.0,
        )
        for phase in (1, 2)
        for problem in (0, 1)
        for _ in range(3)
    ]
    with static_page(chromium, tmp_path, RolloutStepper(pd.DataFrame(rows))) as page:
        page.click("[data-filter=to_code]")
        assert shown(page) == shown(page) | dict(part="phase-2", group="1")
        page.click("text=Before / after")
        assert page.text_content(".panel .verdict").startswith(
            "Switched from language to code: 0 of 3 wrote code in phase 1, 3 of 3 in phase 2"
        )
        assert [
            page.inner_text(f".side:nth-child({side}) .card:nth-of-type(1) .card-text").strip() for side in (1, 2)
        ] == ["It is 1.", "print(1)"]
        page.select_option("select[data-side='1']", label="phase 1")
        assert "0 of 3 in phase 1" in page.text_content(".panel .verdict")


@browser
def test_group_side_by_side(chromium, tmp_path):
    texts = ["We add 1 and 2 to get 3.", "We add 1 and 2 to get 4.", "No idea.", "We add 1 and 2 to get 3."]
    with static_page(chromium, tmp_path, RolloutStepper(texts)) as page:
        assert page.eval_on_selector_all(".panel .times", "nodes => nodes.map((n) => n.textContent)") == [
            "×2 the same"
        ]  # equal texts are one card
        assert page.eval_on_selector_all(".panel .diverges", "nodes => nodes.map((n) => n.textContent)") == [
            "◆ differs from character 22 on",
            "◆ differs from character 0 on",
        ]
        assert [
            text.replace("◆", "")
            for text in page.eval_on_selector_all(".panel .card-text", "nodes => nodes.map((n) => n.textContent)")
        ] == texts[:3]
        page.click(".panel .card:nth-child(3) button")
        assert completion(page) == "No idea."
        page.click(".panel .others summary")
        page.click(".panel .others button >> nth=1")
        assert (
            completion(page) == texts[3]
            and shown(page)["sample"] == "3"
            and page.get_attribute(".panel .card.here .open", "aria-current") == "true"
        )


@browser
def test_one_text_may_have_several_rewards(chromium, tmp_path):
    frame = pd.DataFrame(
        dict(
            prompt=["1+1?"] * 5,
            completion=["2", "2", "2", "2", "3"],
            reward=[1.0, 0.0, 1.0, 1.0, 0.0],
            correct=[True] * 4 + [False],
        )
    )
    with static_page(chromium, tmp_path, RolloutStepper(frame)) as page:
        assert page.eval_on_selector_all(".panel .score", "nodes => nodes.map((n) => n.textContent)") == [
            "✓ right · rewarded 3 of 4",
            "✗ wrong · reward 0",
        ]
        assert page.text_content(".panel .note").startswith(
            "5 samples: 4 of 5 right, 0 of 5 with code, mean reward 0.6."
        )


@browser
def test_opens_where_there_is_something_to_see(chromium, tmp_path, run):
    """At a strategy that switched; else at the most mixed group of the newest part that has one; a link comes before
    both. It says why."""

    def alike(phase, problem, text="It is 1.", rewards=(1.0, 1.0, 1.0)):
        return [
            dict(phase=phase, prompt=f"problem {problem}", completion=text, reward=reward, correct=True)
            for reward in rewards
        ]

    mixed = pd.DataFrame([*alike(1, 0), *alike(1, 1, rewards=(1.0, 0.0, 1.0)), *alike(2, 0), *alike(2, 1)])
    stepper = RolloutStepper(mixed)
    assert "most mixed group of phase 1" in repr(stepper)
    with static_page(chromium, tmp_path, stepper) as page:
        assert shown(page) == shown(page) | dict(part="phase-1", group="1", sample="0", view="group")
        assert page.text_content(".why").startswith(
            "Opened at the most mixed group of phase 1: 3 of 3 samples are right, rewards go from 0 to 1."
        )
        page.focus(".text")
        page.keyboard.press("n")
        assert page.is_visible(".why")  # within the group
        page.click("text=newest rollouts")
        assert shown(page)["part"] == "phase-2" and page.is_hidden(".why")
    switched = pd.DataFrame([*alike(1, 0), *alike(1, 1), *alike(2, 0), *alike(2, 1, "print(1)")])
    with static_page(chromium, tmp_path, RolloutStepper(switched)) as page:
        assert shown(page) == shown(page) | dict(
            part="phase-2", group="1", view="compare"
        ) and "0 % of its samples wrote code in phase 1, 100 % do now" in page.text_content(".why")
        assert page.locator(".panel .card-text .is-code").count() == 1
    with static_page(chromium, tmp_path, RolloutStepper(switched), link="part=phase-1&group=0&sample=1") as page:
        assert page.is_hidden(".why") and shown(page)["view"] == "group"
    assert (
        json.loads(RunWatch(run.path).head)["why"] == "" and RunWatch(run.path).current["phase"] == 3
    )  # what is watched begins at the newest


@browser
def test_undecided_is_not_ungraded(chromium, tmp_path):
    frame = pd.DataFrame(
        dict(
            phase=[1, 1, 2, 2],
            prompt="1+1?",
            completion=["2", "two", "2", "x"],
            correct=pd.Series([True, None, None, None], dtype=object),
        )
    )

    def words(page):
        return (
            page.text_content(".headline .verdict"),
            page.text_content(".map .key"),
            page.get_attribute(".cell.here", "aria-label"),
        )

    with static_page(chromium, tmp_path, RolloutStepper(frame), link="part=phase-1&group=0&sample=1") as page:
        assert (
            words(page)[0] == "? undecided"
            and "undecided" in words(page)[1]
            and "not graded" not in words(page)[1]
            and "undecided" in words(page)[2]
        )
        assert "could not tell" in page.get_attribute(
            ".headline .verdict", "title"
        ) and "could not tell" in page.get_attribute(".key span:has-text('undecided')", "title")
        assert [page.text_content(f"[data-filter={name}]") for name in ("undecided", "ungraded")] == [
            "undecided 1 of 4",
            "not graded 2 of 4",
        ]
        page.click("[data-view=table]")
        assert page.eval_on_selector_all(
            ".panel td[data-column=correct]", "nodes => nodes.map((n) => n.textContent)"
        ) == ["✓ right", "? undecided", "not graded", "not graded"]
    with static_page(chromium, tmp_path, RolloutStepper(frame), link="part=phase-2&group=0&sample=0") as page:
        assert (
            words(page)[0] == "not graded"
            and "not graded" in words(page)[1]
            and "undecided" not in words(page)[1]
            and "not graded" in words(page)[2]
        )


@browser
def test_curves_with_gaps_and_of_one_phase(chromium, tmp_path):
    writer = write_run(tmp_path / "run", phases=1)
    with static_page(chromium, tmp_path, RolloutStepper(tmp_path / "run")) as page:  # one phase: numbers, no curve
        assert page.locator(".curves figure").count() == 7 and page.locator(".curves svg").count() == 0
        assert "clipped above 10.0 %" in page.text_content(".curves") and "entropy (nats) 0.5" in page.text_content(
            ".curves"
        )
    for phase, value in ((2, None), (3, 0.5), (4, None), (5, 0.25), (6, 0.75)):
        writer.log("phase", phase=phase, accuracy=float("nan") if value is None else value, entropy=float("nan"))
    with static_page(chromium, tmp_path, RolloutStepper(tmp_path / "run")) as page:
        path = page.get_attribute(".curves figure:has-text('accuracy') path:not(.cursor)", "d")
        assert path.count("M") == 3 and path.count("L") == 1 and "NaN" not in page.inner_html(".curves")
        assert (
            page.text_content(".curves figure:has-text('accuracy') .range").endswith(" % → 75.0 %")
            and page.get_attribute(".curves figure:has-text('accuracy') .range", "title") == "from phase 1 to phase 6"
        )


@browser
def test_deep_link(chromium, tmp_path, run):
    with static_page(chromium, tmp_path, RolloutStepper(run)) as page:
        page.focus(".text")
        for key in ("[", "j", "n", "u", "ArrowRight", "ArrowRight", "t"):
            page.keyboard.press(key)
        page.click("[data-filter=code]")
        (
            page.select_option("[data-pick=colour]", "entropy")
            if page.locator("[data-pick=colour] option[value=entropy]").count()
            else None
        )
        link, text = page.evaluate("location.hash"), completion(page)
    with static_page(chromium, tmp_path, RolloutStepper(run), link=link[1:]) as page:
        assert page.evaluate("location.hash") == link and completion(page) == text
        assert (
            page.get_attribute("[data-filter=code]", "aria-pressed") == "true"
            and page.get_attribute("[data-view=table]", "aria-selected") == "true"
        )
        page.evaluate("location.hash = 'part=phase-1&group=2&sample=3'")
        wait_until(
            page, f"document.querySelector('.text').textContent === {json.dumps(run.rollouts(1).completion[11])}"
        )
    with static_page(
        chromium,
        tmp_path,
        RolloutStepper(run),
        link="part=nowhere&group=x&unit=furlong&filter=none+code&step=-9&sort=zzz&view=moon",
    ) as page:
        assert (
            completion(page) == run.rollouts(3).completion[int(shown(page)["group"]) * 4 + int(shown(page)["sample"])]
        )  # nonsense is no harm
    stepper = RolloutStepper(run, link=link)
    assert stepper.current["completion"] == text
    stepper.link = "part=phase-2&group=3&sample=1"
    assert stepper.current["completion"] == run.rollouts(2).completion[13]


@browser
def test_copies(chromium, tmp_path, run):
    first, begin = run.rollouts(3).iloc[0], "part=phase-3&group=0&sample=0"
    with static_page(chromium, tmp_path, RolloutStepper(run), link=begin, script=COPIES) as page:
        page.click("text=copy as JSON")
        page.click("text=copy as Markdown")
        page.click("text=copy link")
        as_json, markdown, link = page.evaluate("copied")
        copied = json.loads(as_json)
        assert (
            copied["completion"] == first.completion
            and copied["reward"] == first.reward
            and copied["phase"] == 3
            and copied["facts"]["coin (reward)"] == first.reward_coin
        )
        assert f"\n````text\n{first.completion}\n````" in markdown or f"\n```text\n{first.completion}\n```" in markdown
        assert link.endswith(page.evaluate("location.hash"))
    denied = (
        "Object.defineProperty(navigator, 'clipboard', { value: { writeText: async () => { throw new Error('denied'); }"
        " } });"
    )
    with static_page(chromium, tmp_path, RolloutStepper(run), link=begin, script=denied) as page:
        page.click("text=copy as JSON")
        page.wait_for_selector(".by-hand:visible")
        assert json.loads(page.input_value(".by-hand"))["completion"] == first.completion


@browser
def test_heat_map_and_numbers(chromium, tmp_path, run):
    row = run.rollouts(1).iloc[0]
    frame = run.rollouts(1).iloc[:1].assign(logprob_other=[[v - 1.0 for v in row.logprob_old]])
    with static_page(
        chromium, tmp_path, RolloutStepper(frame, tokenizer=Words(row.completion), other="logprob_other")
    ) as page:
        offered = page.eval_on_selector_all("[data-pick=colour] option", "nodes => nodes.map((n) => n.value)")
        assert offered == [
            "none",
            "logprob",
            "entropy",
            "ratio",
            "clip_side",
            "out_of_band",
            "advantage",
            "mismatch",
            "difference",
        ]
        page.focus(".text")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")  # the second token
        said = page.text_content(".readout")
        assert (
            f"log-probability {widgets_number(row.logprob_old[1])}" in said
            and f"entropy {widgets_number(row.entropy[1])}" in said
        )
        assert (
            "ratio exp(new − old) 1.11" in said
            and "difference from the other log-probabilities 1" in said
            and f"advantage {'+' if row.advantage > 0 else '−'}0.5" in said
        )

        def bins():
            return page.eval_on_selector_all(
                ".text .piece", "nodes => nodes.map((n) => Number((n.className.match(/ b(\\d)/) ?? [, -1])[1]))"
            )

        for name in ("logprob", "entropy", "ratio", "clip_side", "difference"):
            page.select_option("[data-pick=colour]", name)
            values = {
                "logprob": row.logprob_old,
                "entropy": row.entropy,
                "ratio": np.exp(0.1) + 0 * row.entropy,
                "clip_side": row.clip_side,
                "difference": 1 + 0 * row.entropy,
            }[name]
            assert sorted(set(bins())) == sorted(
                {int(np.searchsorted(widgets.QUANTITIES[name]["edges"], value)) for value in values}
            ), name
            words = page.eval_on_selector_all(".heat-legend .swatch", "nodes => nodes.map((n) => n.textContent)")
            assert len(words) == len(widgets.QUANTITIES[name]["edges"]) + 1 and all(words)
        page.hover(".text .piece >> nth=0")
        assert page.text_content(".readout").startswith(f"“{row.completion.split(' ')[0]}")


def widgets_number(value):
    return f"{float(f'{value:.3g}'):.10f}".rstrip("0").rstrip(".").replace("-", "−")


@browser
def test_without_a_tokenizer_it_says_so(chromium, tmp_path, run):
    with static_page(chromium, tmp_path, RolloutStepper(run)) as page:
        assert "tokenizer=" in page.text_content(".heat-legend") and page.locator(".text .heat").count() == 0


# ---------------------------------------------------------------- hostile text

HOSTILE = {
    "script": "<script>globalThis.owned = 1</script>",
    "handler": "<img src=x onerror='globalThis.owned = 2'>",
    "closing": "</script></style></textarea></select><script>globalThis.owned = 3</script>",
    "svg": "<svg onload='globalThis.owned = 4'><animate onbegin='globalThis.owned = 4'/></svg>",
    "frame": "<iframe srcdoc='<script>parent.owned = 5</script>'></iframe><a href='javascript:owned=6'>x</a>",
    "comment": "<!--<script>-->{{7*7}}${7*7}`${owned}`",
    "bidi": "a\u202ecod\u2066e\u2069\u200bb\ufeff",
    "ansi": "\x1b[31mred\x1b]0;title\x07\x00\x08\x7f\x9b",
    "surrogates": "x\ud800y\udfffz 𝜋\U000e0041 \udc00\ud800",
    "separators": "a\u2028b\u2029c\r\nd\te\x0b\x0c\x85",
    "markdown": "```\n~~~\n</code></pre>\n\\boxed{<b>1</b>}\n",
    "code": (
        "```python\nprint('</script><script>owned=8</script>')\n```\n```output\n<img src=x"
        " onerror=owned=9>\n```\n\\boxed{<script>owned=10</script>}"
    ),
    "entities": "&lt;script&gt; &amp;#60; \\u003cscript\\u003e %3Cscript%3E",
    "keys": "__proto__",
    "line": "<b>" * 333_333 + "end",
}


@browser
def test_hostile_text_in_every_field(chromium, tmp_path):
    "Nothing executes, nothing is lost: every text reads back character for character."
    texts = list(HOSTILE.values())
    names = {"<img src=x onerror=owned=11>": "column", "__proto__": "name", "reward_<script>owned=12</script>": 1.0}
    columns = dict(
        phase=[1 + i % 2 for i in range(len(texts))],
        group=[0] * len(texts),
        sample=list(range(len(texts))),
        problem_id=[text[:200] for text in texts],
        prompt=texts,
        completion=texts,
        answer=[text[:3000] for text in texts],
        gold=[text[:3000] for text in texts],
        finish_reason=[text[:50] for text in texts],
        note=[text[:3000] for text in texts],
        reward=[1.0] * len(texts),
        correct=[False] * len(texts),
        **{name: [value] * len(texts) for name, value in names.items()},
    )
    frame = pd.DataFrame(
        {
            name: pd.Series(values, dtype=object if isinstance(values[0], str) else None)
            for name, values in columns.items()
        }
    )
    stepper = RolloutStepper(frame)
    stepper._pages.source.title = HOSTILE["closing"] + HOSTILE["bidi"]
    with static_page(chromium, tmp_path, stepper, script=COPIES) as page:
        for view in ("group", "compare", "table"):
            page.click(f"[data-view={view}]")
            for i, text in enumerate(texts):
                page.evaluate(f"location.hash = 'part=phase-{1 + i % 2}&group=0&sample={i}&view={view}'")
                wait_until(
                    page,
                    "document.querySelector('.rollout-stepper').dataset.shown.split(' ')[0] !== '' && new"
                    f" URLSearchParams(location.hash.slice(1)).get('sample') === '{i}'",
                )
                # compared within the page, since a lone half of a character does not survive the way out
                same = page.evaluate(
                    "(json) => { const text = JSON.parse(json), at = (s) => document.querySelector(s).textContent;"
                    " return [at('.text') === text, at('.prompt-text') === text, at('.headline .answer') ==="
                    " text.slice(0, 3000)]; }",
                    json.dumps(text),
                )
                assert same[:2] == [True, True], (view, i)
                if len(text) < 3000:
                    assert same[2], (view, i)
                if view == "group" and i < 13:
                    page.click("text=copy as JSON")
                    page.click("text=copy as Markdown")
                    assert page.evaluate(
                        "(json) => { const text = JSON.parse(json), [a, b] = copied.splice(0); return"
                        " JSON.parse(a).completion === text && JSON.parse(a).facts.note === text.slice(0, 3000) &&"
                        " b.includes(text); }",
                        json.dumps(text),
                    ), i
        assert page.evaluate("globalThis.owned") is None
        assert (
            page.locator("script").count() == 1
            and page.locator(".rollout-stepper :is(img, iframe, a, svg:not(.curve), object, embed)").count() == 0
        )
        assert "U+202E" in page.eval_on_selector_all(
            ".title .mark, h3", "nodes => nodes.map((n) => n.textContent).join()"
        )  # in labels by its name
        page.evaluate("location.hash = 'part=phase-1&group=0&sample=6'")  # the bidi text
        page.wait_for_selector(".text .mark[data-mark='U+202E']", state="attached")
        assert page.evaluate("getComputedStyle(document.querySelector('.text .mark')).unicodeBidi") == "isolate"
    assert all(c == "\n" or c.isprintable() for c in repr(stepper))


def test_names_of_files_act_on_nothing(tmp_path):
    "An evaluation's name comes from a file's name, which anyone may have chosen."
    writer, name = create_run(tmp_path / "run"), "\x1b[31m\u202e<b>"
    rows = [rollout(1, 0, s, keyed_rng(3, "names", s), groups=1) for s in range(8)]
    for row, correct in zip(rows, (True, False) * 4):
        row.correct = correct
    writer.write_rollouts(1, rows)
    (tmp_path / "run" / "evals").mkdir(exist_ok=True)
    (tmp_path / "run" / "rollouts/phase-000001.parquet").rename(tmp_path / "run" / f"evals/phase-000001-{name}.parquet")
    stepper = RolloutStepper(tmp_path / "run")
    head = json.loads(stepper.head)
    for text in (repr(stepper), head["why"], head["parts"][0]["label"]):
        assert "⟨U+202E⟩<b>" in text and not set(text) & {"\x1b", "\u202e"}


@browser
def test_texts_read_back(chromium, tmp_path):
    "Random texts from an alphabet of troublemakers, with spans and tokens that cut them anywhere."
    rng = keyed_rng(4, "texts")
    alphabet = list("ab \n\t\r\0`<>&\\") + [
        "\u202e",
        "\ud800",
        "\udc00",
        "𝜋",
        "e\u0301",
        "\n```python\n",
        "print(1)",
        "\n```\n",
        "```output\n",
        "\\boxed{1}",
        ". ",
        "\u200d",
        "👩\u200d🔬",
        "\x1b[0m",
    ]
    texts = ["".join(rng.choice(alphabet, size=int(rng.integers(0, 60)))) for _ in range(60)]
    with static_page(chromium, tmp_path, RolloutStepper(texts)) as page:
        for i, text in enumerate(texts):
            assert (
                page.evaluate(
                    "async ([json, i]) => { location.hash = `part=rollouts-0&group=0&sample=${i}`; await new"
                    " Promise((done) => setTimeout(done, 15)); return document.querySelector('.text').textContent ==="
                    " JSON.parse(json) || document.querySelector('.text').textContent; }",
                    [json.dumps(text), i],
                )
                is True
            ), repr(text)


# ---------------------------------------------------------------- with a kernel: pages of rows, a run that grows

BEGIN = "part=phase-20&group=0&sample=0"


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    "20,000 rollouts in 20 phases; the files of the later phases are copies."
    path = tmp_path_factory.mktemp("large") / "run"
    writer = write_run(path, phases=1, groups=125, samples=8, finish=False)
    first = path / "rollouts/phase-000001.parquet"
    for phase in range(2, 21):
        (path / f"rollouts/phase-{phase:06d}.parquet").write_bytes(first.read_bytes())
        writer.log("phase", phase=phase, reward=0.5)
    return path


def test_only_a_page_of_rows_is_read(large, monkeypatch):
    read, columns = [], []
    original, full = widgets._read_page, pq.ParquetFile.read
    monkeypatch.setattr(widgets, "_read_page", lambda path, page: read.append(original(path, page)) or read[-1])
    monkeypatch.setattr(
        pq.ParquetFile,
        "read",
        lambda self, *a, columns=None, **k: columns_seen(columns) or full(self, *a, columns=columns, **k),
    )

    def columns_seen(names):
        columns.append(names)

    stepper = RolloutStepper(large)
    assert (
        sum(map(len, read)) <= 64 and len(stepper._pages.index.frames) == 2
    )  # the first and the last part, and one page of rows
    assert all(
        names is not None and not {"completion", "prompt", "logprob_new", "entropy", "token_ids"} & set(names)
        for names in columns
    )
    for number in range(0, 20_000, 500):
        stepper._pages.row(number)
    assert len(stepper._pages.source.pages) <= 8 and sum(map(len, stepper._pages.source.pages.values())) <= 512
    assert (
        len(stepper.head) < 150_000 and len(stepper._repr_mimebundle_()[0]["text/html"]) < 300_000
    )  # what a notebook saves


@browser
def test_pages_come_from_the_kernel(chromium, large):
    stepper = RolloutStepper(large, link=BEGIN)
    rows = pq.read_table(large / "rollouts/phase-000001.parquet").to_pandas()
    with live_page(chromium, stepper) as page:
        wait_until(
            page, "document.querySelector('.passing').textContent === ''", timeout=60_000
        )  # index and counts have all come
        assert page.text_content("[data-filter=code] b") == f"{20 * int(rows.writes_code.sum()):,}"
        assert page.text_content("[data-filter=clipped_high] b") == f"{20 * int((rows.reward > 0).sum()):,}"
        page.focus(".text")
        page.select_option("[data-pick=phase]", label="phase 7")
        page.keyboard.press("j")
        page.keyboard.press("n")
        page.keyboard.press("n")
        wait_until(page, "document.querySelector('.rollout-stepper').dataset.shown === '6010'")
        assert completion(page) == rows.completion[10]
        page.fill("input[type=search]", "print(111)")
        hits = int((rows.completion.str.contains("print(111)", regex=False)).sum())
        wait_until(
            page,
            f"document.querySelector('.passing').textContent.includes('{20 * hits} rollouts found')",
            timeout=60_000,
        )
        page.fill("input[type=search]", "")
        kinds = [content["kind"] for content in page.asked]
        assert (
            max(len(content.get("rows", ())) for content in page.asked) <= 32
            and sum(len(content.get("rows", ())) for content in page.asked) < 200
        )
        assert {"hello", "index", "measure", "rows", "search"} == set(kinds)
        page.evaluate("model.set('link', 'part=phase-2&group=3&sample=5')")  # from Python
        wait_until(page, "document.querySelector('.rollout-stepper').dataset.shown === '1029'")
        page.evaluate("cleanup()")
        assert page.locator(".rollout-stepper").count() == 0


@browser
def test_a_page_that_keeps_receiving_still_says_where_it_is(chromium, run):
    "Answers that come faster than the place is saved do not put the saving off: Python knows what is shown."
    with live_page(chromium, RolloutStepper(run, link="part=phase-3&group=0&sample=0")) as page:
        page.evaluate("() => { globalThis.arriving = setInterval(() => deliver({ kind: 'rows' }, '{}'), 30); }")
        page.focus(".text")
        page.keyboard.press("n")
        wait_until(page, "model.get('link').includes('sample=1')", timeout=5_000)
        page.evaluate("clearInterval(arriving)")


@browser
def test_two_views_of_one_widget(chromium, large):
    "Some front ends make a view anew, or twice: each asks for itself, follows the other, and neither loses its place."
    with live_page(chromium, RolloutStepper(large, link=BEGIN)) as page:
        page.evaluate(
            "() => { document.body.append(document.createElement('main')); globalThis.second = view.render({ model, el:"
            " document.querySelector('main') }); }"
        )
        wait_until(
            page,
            "document.querySelectorAll('.rollout-stepper[data-shown]').length === 2 &&"
            " [...document.querySelectorAll('.passing')].every((each) => each.textContent === '')",
            timeout=60_000,
        )
        assert (
            page.locator("main .filters").text_content()
            == page.locator("body > .rollout-stepper .filters").text_content()
        )
        page.locator("main .text").focus()
        page.locator("main [data-pick=phase]").select_option(label="phase 7")
        page.locator("main .text").focus()
        for key in "jnn":
            page.keyboard.press(key)
        wait_until(
            page, "[...document.querySelectorAll('.rollout-stepper')].every((each) => each.dataset.shown === '6010')"
        )
        page.wait_for_timeout(400)  # neither moves the other back
        assert page.eval_on_selector_all(".rollout-stepper", "nodes => nodes.map((n) => n.dataset.shown)") == [
            "6010",
            "6010",
        ]
        page.evaluate("""async () => { // one moves while the other, which moved before, has not yet said where it is
          const text = (view) => document.querySelector(`${view} > .rollout-stepper .text`);
          const press = (view, key) => text(view).dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
          press("body", "n"); await new Promise((done) => setTimeout(done, 100)); press("main", "p");
        }""")
        wait_until(
            page, "[...document.querySelectorAll('.rollout-stepper')].every((each) => each.dataset.shown === '6009')"
        )
        page.locator("main .text").press("n")
        wait_until(
            page, "[...document.querySelectorAll('.rollout-stepper')].every((each) => each.dataset.shown === '6010')"
        )
        page.evaluate("second()")
        page.locator(".rollout-stepper .text").focus()
        page.keyboard.press("n")
        wait_until(page, "document.querySelector('.rollout-stepper').dataset.shown === '6011'")
        assert page.locator(".rollout-stepper").count() == 1


def test_answers_under_threads_and_to_nonsense(large):
    "Messages may come on a thread of their own while a cell runs; nonsense gets an error, never an exception."
    stepper, faults = RolloutStepper(large), []

    def read(offset):
        try:
            for number in range(offset, 20_000, 1999):
                assert stepper._pages.row(number)["id"] == number
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=read, args=(offset,)) for offset in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    sent = []
    stepper.send = lambda content, buffers: sent.append(json.loads(bytes(buffers[0])))
    for nonsense in (
        dict(kind="rows", rows=[10**9]),
        dict(kind="rows", rows="x"),
        dict(kind="rows"),
        dict(kind="index", parts=[99]),
        dict(kind="__class__"),
        dict(kind="search", part=0),
        "text",
        None,
        5,
        dict(kind="measure", part="x"),
    ):
        stepper._handle_custom_msg(nonsense, [])
        assert sent.pop()["error"]


WRITER = """
import sys, time; sys.path.insert(0, sys.argv[2])
from test_stepper import create_run, write_phase
writer = create_run(sys.argv[1]); writer.log("status", status="started")
for phase in range(1, 7): write_phase(writer, phase); print(phase, flush=True); sys.stdin.readline()
writer.log("status", status="finished"); print("done", flush=True); sys.stdin.readline()
"""


@browser
def test_watch_follows_another_process(chromium, tmp_path):
    path = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(pathlib.Path(__file__).parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        view = watch(path, interval=0.05)
        try:

            def go_on():
                return (process.stdin.write("\n"), process.stdin.flush(), process.stdout.readline())

            with live_page(chromium, view) as page:

                def until(condition, timeout=30):
                    end = time.monotonic() + timeout
                    while not page.evaluate(condition):
                        assert time.monotonic() < end, (condition, page.text_content(".live"))
                        deliver(page)
                        time.sleep(0.05)

                process.stdout.readline()  # phase 1 is written
                until("document.querySelector('.pulse').textContent.includes('phase 1 ')")
                go_on()
                until(
                    "document.querySelector('[data-pick=phase]').selectedOptions[0].textContent === 'phase 2'"
                )  # it follows
                assert page.locator(".curves figure").count() >= 6
                page.click("text=pause")
                go_on()
                for _ in range(10):
                    deliver(page)
                    time.sleep(0.05)
                assert page.evaluate(
                    "document.querySelector('[data-pick=phase]').options.length"
                ) == 2 and "paused" in page.text_content(".pulse")
                page.click("text=resume")
                until("document.querySelector('[data-pick=phase]').selectedOptions[0].textContent === 'phase 3'")
                page.focus(".text")
                page.keyboard.press("[")
                page.keyboard.press("n")  # looking elsewhere ends the following
                go_on()
                until("document.querySelector('[data-pick=phase]').options.length === 4")
                assert (
                    page.evaluate("document.querySelector('[data-pick=phase]').selectedOptions[0].textContent")
                    == "phase 2"
                )
                page.click("text=jump to the newest")
                until("document.querySelector('[data-pick=phase]').selectedOptions[0].textContent === 'phase 4'")
                (path / "rollouts/phase-000009.parquet").write_bytes(b"PAR1 half a file")
                until("document.querySelector('.limit').textContent.includes('phase-000009')")
                (path / "rollouts/phase-000009.parquet").unlink()
                page.click("text=follow")
                go_on()
                go_on()
                until("document.querySelector('[data-pick=phase]').selectedOptions[0].textContent === 'phase 6'")
                go_on()
                until("document.querySelector('.pulse').textContent.includes('finished')")
                end = time.monotonic() + 20
                while view.watching and time.monotonic() < end:
                    time.sleep(0.05)
                assert not view.watching
        finally:
            view.close()
            process.kill()


def test_watch_stops_at_once(tmp_path):
    view = watch(tmp_path / "never", interval=30.0)
    began = time.monotonic()
    view.stop()
    assert time.monotonic() - began < 2 * PATIENCE and not view.watching
    view.start()
    assert view.watching
    view.close()
    assert not view.watching


def test_a_page_that_comes_after_the_watching_is_told_so(tmp_path):
    write_run(tmp_path / "run", phases=1, finish=False)
    view = watch(tmp_path / "run", interval=0.05)
    assert view._head()["state"] == "running"
    view.stop()
    assert view._head()["state"] == "running, no longer watched"
    view.start()
    assert view._head()["state"] == "running"
    view.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_watch_that_breaks_off_does_not_say_that_it_goes_on(tmp_path, monkeypatch):
    write_run(tmp_path / "run", phases=1, finish=False)
    view, told = RunWatch(tmp_path / "run", interval=0.01), []
    monkeypatch.setattr(view, "look", lambda: (_ for _ in ()).throw(RuntimeError("the disk is gone")))
    monkeypatch.setattr(view, "_tell", lambda kind, what: told.append(what))
    view.start()
    view._thread.join(timeout=5)
    assert not view.watching
    assert told[-1] == dict(state="running, no longer watched") == dict(state=view._head()["state"])


def test_a_replaced_phase_is_read_anew(tmp_path):
    writer = write_run(tmp_path / "run", phases=2, finish=False)
    view = RunWatch(tmp_path / "run")
    before = view._pages.row(16)["completion"]
    time.sleep(0.02)
    writer.write_rollouts(2, [rollout(2, 7, s, keyed_rng(1, "again", s), groups=9) for s in range(3)])
    assert view.look() and sum(part.rows for part in view._pages.source.parts) == 19
    assert (
        view._pages.answer("rows", dict(rows=[32]))["rows"][0]["completion"] != before
        and "error" in view._reply(dict(kind="rows", rows=[16]))[1]
    )


# ---------------------------------------------------------------- the command

DATA = pathlib.Path(__file__).parent / "data"


@pytest.fixture
def formats(tmp_path, run):
    trl = tmp_path / "completions_00001.parquet"
    pq.write_table(
        pa.table(
            dict(
                step=[1, 1],
                prompt=["1+1?"] * 2,
                completion=["It is \\boxed{2}", "print(1+1)"],
                accuracy_reward=[1.0, 0.0],
                advantage=[0.7, -0.7],
            )
        ),
        trl,
    )
    lines = tmp_path / "rollouts.jsonl"
    lines.write_text(
        "\n".join(
            json.dumps(row)
            for row in [
                dict(problem="2+2?", response="It is 4.\ud800", score=1),
                dict(problem="2+2?", response="</script>", score=0),
            ]
        ),
        encoding="utf-8",
    )
    return dict(run=run.path, trl=trl, jsonl=lines)


@browser
@pytest.mark.parametrize("kind", ["run", "trl", "jsonl"])
def test_view_writes_a_page(chromium, tmp_path, formats, kind):
    page_file = tmp_path / "view.html"
    done = CliRunner().invoke(cli.app, ["view", str(formats[kind]), "--out", str(page_file)])
    assert done.exit_code == 0 and done.output.strip() == str(page_file)
    with open_page(chromium, page_file.as_uri()) as page:
        assert page.text_content(".title .note").startswith(
            {"run": "48 rollouts in 3 parts", "trl": "2 rollouts in 1 part", "jsonl": "2 rollouts in 1 part"}[kind]
        )
        page.focus(".text")
        before = shown(page)
        page.keyboard.press("n")
        assert shown(page)["sample"] != before["sample"]
        if kind == "trl":
            assert page.text_content("[data-filter=code] b") == "1"
    assert (
        CliRunner().invoke(cli.app, ["view", str(formats[kind]), "--out", str(page_file)]).exit_code == 0
    )  # its own page it may replace


def test_view_says_what_is_wrong(tmp_path, formats):
    foreign, broken, other = tmp_path / "mine.html", tmp_path / "broken.parquet", tmp_path / "other.jsonl"
    foreign.write_text("<p>mine</p>")
    broken.write_bytes(b"nothing")
    other.write_text('{"a": 1}\n')

    def view(*arguments):
        return CliRunner().invoke(cli.app, ["view", *map(str, arguments)])

    for arguments, words in (
        ((tmp_path / "nowhere",), "no such file"),
        ((broken,), "not a readable parquet"),
        ((other,), "no completions"),
        ((formats["jsonl"], "--out", foreign), "not a page of rollouts"),
        ((formats["jsonl"], "--tokenizer", tmp_path), "no tokenizer.json"),
        ((formats["jsonl"], "--out", tmp_path), "choose another name"),
    ):
        done = view(*arguments)
        assert done.exit_code == 2 and words in done.output and len(done.output.strip().splitlines()) == 1, (
            arguments,
            done.output,
        )
    assert foreign.read_text() == "<p>mine</p>"


@browser
def test_view_serves_large_files(chromium, large):
    with subprocess.Popen(
        [sys.executable, "-c", "from spurious_rlvr.cli import main; main()", "view", str(large), "--serve"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            url = process.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:")
            with contextlib.closing(chromium.new_context()) as context:
                page, faults = context.new_page(), []
                page.on("pageerror", lambda error: faults.append(str(error)))
                page.goto(f"{url}#{BEGIN}")
                wait_until(
                    page,
                    "document.querySelector('.passing')?.textContent === '' &&"
                    " document.querySelector('[data-filter=code] b').textContent.length > 4",
                    timeout=60_000,
                )
                page.select_option("[data-pick=phase]", label="phase 11")
                page.focus(".text")
                page.keyboard.press("j")
                wait_until(page, "document.querySelector('.rollout-stepper').dataset.shown === '10008'")
                assert faults == []
        finally:
            process.kill()


# ---------------------------------------------------------------- for everyone


@browser
@pytest.mark.parametrize("width", [320, 420, 1200])
def test_no_sideways_scrolling(chromium, tmp_path, run, width):
    for view in ("group", "compare", "table"):
        with static_page(
            chromium, tmp_path, RolloutStepper(run), link=f"view={view}", viewport=dict(width=width, height=800)
        ) as page:
            assert page.evaluate("document.documentElement.scrollWidth") <= width


@browser
def test_keyboard_names_and_structure(chromium, tmp_path, run):
    with static_page(chromium, tmp_path, RolloutStepper(run), link="part=phase-3&group=0&sample=0") as page:
        unnamed = page.evaluate(
            "[...document.querySelectorAll('button, select, input, textarea, [tabindex=\"0\"]')].filter((n) =>"
            " !(n.getAttribute('aria-label') || n.textContent.trim() || n.labels?.length)).map((n) => n.outerHTML)"
        )
        assert unnamed == []
        ids = page.eval_on_selector_all("[id]", "nodes => nodes.map((n) => n.id)")
        assert len(ids) == len(set(ids))
        reached, kinds = [], set()
        for _ in range(40):
            page.keyboard.press("Tab")
            reached.append(
                page.evaluate(
                    "document.activeElement.getAttribute('aria-label') ??"
                    " document.activeElement.textContent.slice(0, 12)"
                )
            )
            assert page.evaluate(
                "document.activeElement === document.body || getComputedStyle(document.activeElement).outlineStyle ==="
                " 'solid'"
            ), reached[-1]  # the focus is seen
            kinds.add(page.evaluate("document.activeElement.getAttribute('role') ?? document.activeElement.tagName"))
        assert "completion" in reached and {"gridcell", "tab", "SELECT", "INPUT", "BUTTON"} <= kinds
        assert reached.index("phase") < reached.index("completion") < reached.index("Group")
        page.focus(".cell.here")
        page.keyboard.press("ArrowDown")
        assert (
            shown(page)["group"] == "1"
            and page.evaluate("document.activeElement.getAttribute('aria-selected')") == "true"
        )
        page.focus(".text")
        page.keyboard.press("?")
        assert page.is_visible(".help")
        page.keyboard.press("/")
        assert page.evaluate("document.activeElement.type") == "search"
        page.keyboard.type("n")
        assert page.input_value("input[type=search]") == "n"  # a letter in a field is a letter


def luminance(color):
    parts = np.array(color) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]


@browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(chromium, tmp_path, run, scheme):
    "Text reaches 4.5 : 1 on every colour of every heat map, and on the paper."
    with static_page(chromium, tmp_path, RolloutStepper(run), color_scheme=scheme) as page:
        seen = page.evaluate(
            """() => { const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
            const bytes = (color) => {
              canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
              return [...canvas.getImageData(0, 0, 1, 1).data];
            };
            const root = document.querySelector(".rollout-stepper"), found = {};
            const probe = root.appendChild(document.createElement("span"));
            const kinds = { falling: 6, rising: 6, diverging: 7, sides: 3 };
            for (const [kind, bins] of Object.entries(kinds)) for (let bin = 0; bin < bins; bin++) {
              probe.className = `heat ${kind} b${bin}`;
              found[`${kind} ${bin}`] = bytes(getComputedStyle(probe).backgroundColor);
            }
            const { color, backgroundColor } = getComputedStyle(root), note = document.querySelector(".note");
            const quiet = bytes(getComputedStyle(note).color);
            return { found, ink: bytes(color), paper: bytes(backgroundColor), quiet };
            }"""
        )

        def ratio(a, b):
            return (max(luminance(a), luminance(b)) + 0.05) / (min(luminance(a), luminance(b)) + 0.05)

        assert (luminance(seen["paper"][:3]) > 0.9) == (scheme == "light") and ratio(
            seen["quiet"][:3], seen["paper"][:3]
        ) >= 4.5
        for name, color in seen["found"].items():
            assert ratio(seen["ink"][:3], color[:3] if color[3] else seen["paper"][:3]) >= 4.5, name
        for kind, bins in (
            ("falling", 6),
            ("rising", 6),
        ):  # the classes differ in lightness, so they are told apart without hue
            steps = [
                luminance(
                    seen["found"][f"{kind} {bin}"][:3] if seen["found"][f"{kind} {bin}"][3] else seen["paper"][:3]
                )
                for bin in range(bins)
            ]
            assert sorted(steps) == steps or sorted(steps, reverse=True) == steps


@browser
def test_ten_thousand_tokens(chromium, tmp_path):
    """A step, and the step to another rollout, within 50 ms; every move is made several times and its best counts. The
    figures are printed."""
    rng = keyed_rng(5, "long")
    texts = [" ".join(rng.choice([*WORDS, "\n"], size=10_000)) for _ in range(4)]
    frame = pd.DataFrame(
        [
            dict(
                completion=text,
                token_ids=list(range(len(text.split(" ")))),
                logprob_old=(-rng.random(len(text.split(" ")))).round(4).tolist(),
            )
            for text in texts
        ]
    )

    def tokens(ids):
        return "".join((" " if i else "") + pieces[i] for i in ids)

    times = {}
    for text in texts[:1]:
        pieces = text.split(" ")
        with static_page(chromium, tmp_path, RolloutStepper(frame.iloc[:1], tokenizer=tokens)) as page:
            page.wait_for_selector(".text .heat")
            assert 100 < page.locator(".text .piece").count() < 9_000  # cut into tokens where it is in sight
            press = (
                "(key) => { const start = performance.now(); document.querySelector('.text').dispatchEvent(new"
                " KeyboardEvent('keydown', { key, bubbles: true }));"
                " document.querySelector('.text').getBoundingClientRect(); return performance.now() - start; }"
            )
            times["step"] = [page.evaluate(press, "ArrowRight") for _ in range(30)]
            times["to the end"] = [page.evaluate(press, key) for key in ("End", "Home", "End", "Home")]
            times["recolour"] = [page.evaluate(press, "h") for _ in range(4)]
            frames = page.evaluate(
                """() => new Promise((done) => {
                  const text = document.querySelector(".text"), gaps = [];
                  text.scrollTop = 0;
                  let last = performance.now();
                  const next = (now) => {
                    gaps.push(now - last); last = now; text.scrollTop += 120;
                    if (gaps.length < 90) requestAnimationFrame(next); else done(gaps.slice(2));
                  };
                  requestAnimationFrame(next);
                })"""
            )
            times["frame while scrolling"] = frames
            page.evaluate("document.querySelector('.text').scrollTop = 1e6")
            page.wait_for_timeout(300)
            assert completion(page) == text and page.locator(".text .chunk:last-child .heat").count() > 10
    with static_page(chromium, tmp_path, RolloutStepper(texts)) as page:
        times["sample"] = [page.evaluate(press, key) for key in "nnnpppnnn"]
    for name, values in times.items():
        print(
            f"10,000 tokens, {name}: median {np.median(values):.0f} ms, best {min(values):.0f} ms, largest"
            f" {max(values):.0f} ms"
        )
    assert np.quantile(times["frame while scrolling"], 0.9) <= 50
    assert np.median(times["step"]) <= 50 and min(times["to the end"]) <= 50 and min(times["sample"]) <= 50


def test_looking_needs_no_torch(run, tmp_path):
    code = (
        f"import sys; from spurious_rlvr.widgets import RolloutStepper, watch; s = RolloutStepper({str(run.path)!r});"
        " repr(s); s.to_html(); print([name for name in ('torch', 'transformers', 'datasets', 'vllm') if name in"
        " sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_other_log_probabilities_from_a_second_run(tmp_path, run):
    "The difference from another checkpoint's log-probabilities, row by row, by phase, group, sample and text."
    frame = run.rollouts(1)
    shifted = frame.assign(logprob_old=[[v - 0.5 for v in values] for values in frame.logprob_old])
    values = RolloutStepper(run, other=shifted)._pages.row(3)["values"]
    assert np.allclose(values["difference"], 0.5, atol=1e-3)
    assert (
        "difference" not in RolloutStepper(run, other=shifted)._pages.row(20)["values"]
    )  # phase 2 is not in the other table


def test_empty_things(tmp_path):
    for nothing in ([], pd.DataFrame(dict(completion=[])), [""]):
        stepper = RolloutStepper(nothing)
        assert "RolloutStepper" in repr(stepper) and "RolloutStepper" in stepper.to_html()
    create_run(tmp_path / "run")
    assert "0 rollouts" in repr(RolloutStepper(tmp_path / "run"))


def test_tables_as_people_have_them(tmp_path):
    """Groups by name, answers as numbers, mixed and missing values, more rollouts than texts are read of: it opens and
    says what it leaves out."""
    frame = pd.DataFrame(
        dict(
            group=["b", "a", "b"],
            sample=[None, 1, 2],
            completion=["x", None, 3],
            answer=[1, 2.5, None],
            reward=["1", None, True],
            correct=[1, 0, None],
            phase=["first", None, 2],
            prompt=[None, "p", 5],
        )
    )
    stepper = RolloutStepper(frame)
    assert [part.rows for part in stepper._pages.source.parts] == [2, 1]
    head = json.loads(stepper.head)
    assert [entry["group"] for _, entry in sorted(head["index"])] == [[0, 1], [0]] and len(stepper.find()) == 3
    for number in range(3):
        stepper._pages.row(number)
    many = RolloutStepper(pd.DataFrame(dict(completion=["print(1)"] * 20_001)))
    assert (
        "writes_code" in json.loads(many.head)["problems"][0]
        and many._pages.answer("measure", dict(part=0))["index"][0][1]["code"][0] is None
    )


@browser
def test_switches_are_settled_when_earlier_parts_come(chromium, tmp_path):
    """A large run opens with its last phase alone; whether its strategies have switched is known once the first phases
    are."""
    writer = create_run(tmp_path / "run")
    for phase in range(1, 7):
        writer.write_rollouts(
            phase,
            [
                Rollout(
                    phase,
                    p,
                    s,
                    f"problem-{p}" if phase > 1 or p < 50 else "other",
                    "?",
                    "print(1)" if phase > 3 else "It is 1.",
                    "1",
                    [],
                    [],
                    "stop",
                    correct=True,
                    reward=1.0,
                    writes_code=phase > 3,
                )
                for p in range(100)
                for s in range(10)
            ],
        )
    with live_page(chromium, RolloutStepper(tmp_path / "run")) as page:
        assert page.evaluate("document.querySelector('[data-pick=phase]').selectedOptions[0].textContent") == "phase 6"
        wait_until(
            page,
            "document.querySelector('.passing').textContent === '' && document.querySelector('[data-filter=to_code]"
            " b').textContent === '3,000'",
        )
