"""Comparing runs: the numbers against SciPy's, arms and their looks, and in a real Chromium the chart, its keyboard,
the rollouts behind a point, hostile texts and the exported page."""

import json
import os
import pathlib

import numpy as np
import pytest
from lab_harness import HOSTILE, Linked
from scipy import stats

from spurious_rlvr.core import ConfigError, Rollout, RunError, keyed_rng
from spurious_rlvr.runs import create_run, read_run
from spurious_rlvr.widgets import CompareRuns, arm_looks, curves, group_runs, mean_interval

browser = pytest.mark.browser
CODE = "Let us use Python.\n```python\nprint(6 * 7)\n```\n```output\n42\n```\nIt is 42, 𝜋."
WORDS = "First 6, then 7. It is 42."


def rollouts(phase, seed, count=20):
    rng = keyed_rng(3, phase, seed)
    texts = [(CODE, WORDS)[int(rng.integers(2))] for _ in range(count)]
    return [
        Rollout(
            phase=phase,
            group=i // 4,
            sample=i % 4,
            problem_id=f"p{i // 4}",
            prompt="What is 6 * 7?",
            completion=text,
            gold="42",
            answer="42",
            token_ids=[1, 2],
            logprob_sampler=[-0.1, -0.2],
            finish_reason="stop",
            correct=bool(i % 3),
            reward=float(i % 2),
            advantage=0.5,
            mentions_python="Python" in text,
            writes_code="```" in text,
        )
        for i, text in enumerate(texts)
    ]


def write_study(
    folder,
    arms=("high", "both"),
    seeds=3,
    phases=6,
    accuracy=lambda arm, seed, phase: 0.5 + 0.04 * phase * (1 if arm == "high" else -1) + 0.02 * seed,
):
    for arm in arms:
        for seed in range(seeds):
            writer = create_run(
                folder / f"{arm}-seed{seed}",
                config=dict(seed=seed, clip=arm),
                arm=f"random-{arm}",
                reward="random(0.5)",
            )
            writer.write_evaluation(0, "chains", rollouts(0, seed), accuracy=0.5, code_share=0.5)
            for phase in range(1, phases + 1):
                writer.write_rollouts(phase, rollouts(phase, seed))
                writer.log("update", phase=phase, update=0, loss=0.0)
                writer.log(
                    "phase",
                    phase=phase,
                    reward=0.5,
                    accuracy=accuracy(arm, seed, phase),
                    code_share=0.4,
                    entropy=0.3,
                    clip_fraction_high=0.01,
                    clip_fraction_low=0.03,
                    completion_length=20.0 + phase,
                )
            writer.write_evaluation(phases, "chains", rollouts(phases, seed), accuracy=0.7, code_share=0.6)
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture
def page(chromium):
    page, errors = chromium.new_page(viewport=dict(width=1000, height=900)), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    page.close()
    assert errors == []


def shot(page, name):
    if folder := os.environ.get("SPURIOUS_RLVR_SCREENSHOTS"):
        page.screenshot(path=pathlib.Path(folder) / f"{name}.png", full_page=True)


# ---------------------------------------------------------------- numbers


def test_the_interval_is_scipys():
    values = keyed_rng(0, "interval").normal(size=(40, 5))
    for row in values:
        mean, low, high = mean_interval(row)
        expected = stats.ttest_1samp(row, 0).confidence_interval(0.95)
        assert (mean, low, high) == pytest.approx((row.mean(), expected.low, expected.high))
    covered = [
        low <= 0 <= high
        for _, low, high in (mean_interval(row) for row in keyed_rng(0, "coverage").normal(size=(4000, 5)))
    ]
    assert abs(np.mean(covered) - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 4000)


def test_curves_hold_the_runs_numbers(study):
    arms = group_runs(study)
    metric = next(m for m in curves(arms) if m["key"] == "phase//accuracy")
    runs = [run for own in arms.values() for run in own]
    assert list(arms) == ["random-both", "random-high"] and [run.config["seed"] for run in runs] == [0, 1, 2] * 2
    for run, values in zip(runs, metric["runs"]):
        assert values == pytest.approx(run.of_kind("phase")["accuracy"].tolist(), abs=1e-5)
    for arm, own in enumerate(arms.values()):
        for at, phase in enumerate(metric["phases"]):
            expected = mean_interval([run.of_kind("phase").set_index("phase")["accuracy"][phase] for run in own])
            assert [metric["bands"][arm][name][at] for name in ("mean", "low", "high")] == pytest.approx(
                expected, abs=1e-4
            )
    both = next(m for m in curves(arms) if m["key"] == "phase//clip_fraction")
    assert both["runs"][0][0] == pytest.approx(0.04)
    assert [m["title"] for m in curves(arms) if m["kind"] == "evaluation"][0] == "accuracy on chains"


def test_seeds_that_are_not_as_far_and_single_seeds(tmp_path):
    write_study(tmp_path, arms=("high",), seeds=2, phases=4)
    (tmp_path / "high-seed1" / "metrics.jsonl").write_text(
        "".join(
            line
            for line in (tmp_path / "high-seed1" / "metrics.jsonl").open()
            if '"phase": 4' not in line and '"phase": 3' not in line
        )
    )
    band = next(m for m in curves(group_runs(tmp_path)) if m["key"] == "phase//accuracy")["bands"][0]
    assert (
        band["n"] == [2, 2, 1, 1]
        and band["low"][0] is not None
        and band["low"][3] is None
        and band["mean"][3] is not None
    )


def test_what_is_no_comparison(tmp_path):
    with pytest.raises(ConfigError, match="there are no runs"):
        CompareRuns({})
    with pytest.raises(RunError, match="holds no run folders"):
        CompareRuns(tmp_path)
    with pytest.raises(RunError, match="not a run folder"):
        CompareRuns([tmp_path / "nothing"])
    create_run(tmp_path / "new")
    with pytest.raises(ConfigError, match="has finished a phase"):
        CompareRuns(tmp_path)


def test_arms_found_by_what_differs(tmp_path):
    for clip in ("high", "low"):
        for seed in range(2):
            create_run(tmp_path / f"{clip}{seed}", config=dict(seed=seed, clip=clip, epsilon=0.2)).log(
                "phase", phase=1, reward=0.5
            )
    assert {
        arm: len(runs)
        for arm, runs in group_runs(
            [tmp_path / "high0", tmp_path / "low0", read_run(tmp_path / "low1"), tmp_path / "high1"]
        ).items()
    } == {"clip high": 2, "clip low": 2}
    assert list(group_runs({"a": tmp_path / "high0", "b": [tmp_path / "low0", tmp_path / "low1"]})) == ["a", "b"]


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return sum(
        weight * (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4)
        for weight, part in zip((0.2126, 0.7152, 0.0722), parts)
    )


def test_every_arm_can_be_seen_and_told_apart():
    looks = arm_looks([f"arm {i}" for i in range(8)])
    for look in looks:
        for colour, paper in ((look["light"], "#ffffff"), (look["dark"], "#17191c")):
            bright, dark = sorted((luminance(colour), luminance(paper)), reverse=True)
            assert (bright + 0.05) / (dark + 0.05) >= 3, look  # WCAG 1.4.11
    assert len({look["marker"] for look in looks}) == 8


def test_what_a_notebook_saves_is_capped(tmp_path):
    arms = {}
    for arm in range(6):
        for seed in range(4):
            writer = create_run(tmp_path / f"a{arm}s{seed}", config=dict(seed=seed))
            lines = [
                json.dumps(
                    dict(
                        kind="phase",
                        phase=p,
                        **{name: float(keyed_rng(seed, arm, p).random()) for name in ("reward", "accuracy")},
                        code_share=0.123456789,
                        entropy=1 / (p + 1),
                        clip_fraction_high=0.01,
                        clip_fraction_low=0.02,
                    )
                )
                for p in range(1, 1001)
            ]
            (writer.path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
            arms.setdefault(f"arm {arm}", []).append(writer.path)
    view = CompareRuns(arms)
    head = json.loads(view.head)
    assert len(view.head) <= 250_000 and "phases are drawn" in head["note"]
    assert head["metrics"][0]["phases"][0] == 1 and head["metrics"][0]["phases"][-1] == 1000
    assert (
        len(json.dumps({name: value for name, value in view.get_state().items() if name not in ("_esm", "_css")}))
        < 260_000
    )


# ---------------------------------------------------------------- the page


def card_texts(page):
    return page.evaluate("[...document.querySelectorAll('.rollout > .span-text')].map((node) => node.textContent)")


@browser
def test_a_point_chosen_by_keyboard_shows_its_rollouts(page, study):
    view = CompareRuns(study)
    link = Linked(page, view)
    page.focus(".chart")
    page.locator(".chart").press("Home")
    assert (
        "random, clip on both sides, seed 0 (both-seed0), phase 1: accuracy of the phase's samples 46.0 %"
        in page.text_content(".readout")
    )
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    assert "seed 1 (both-seed1), phase 3" in page.text_content(".readout")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    assert "seed 2 (high-seed2)" in page.text_content(".readout")  # round the corner
    page.keyboard.press("Enter")
    link.until(lambda: page.locator(".rollout").count() == 12)
    run = read_run(study / "high-seed2")
    assert card_texts(page) == run.rollouts(3)["completion"].tolist()[:12]
    assert "1 to 12 of 20" in page.text_content(".rollouts .note")
    page.click(".rollouts button:text-is('More')")
    link.until(lambda: page.locator(".rollout").count() == 8)
    assert card_texts(page) == run.rollouts(3)["completion"].tolist()[12:]
    assert view.rollouts["completion"].tolist() == run.rollouts(3)["completion"].tolist()
    code = page.evaluate(
        "[...document.querySelectorAll('.rollout [data-kind=code]')].map((n) => n.textContent).join('|')"
    )
    assert {text.strip() for text in code.split("|")} == {"print(6 * 7)"}
    assert (
        "✓ right" in page.text_content(".rollouts")
        and "✗ wrong" in page.text_content(".rollouts")
        and "reward 1" in page.text_content(".rollouts")
    )


@browser
def test_a_point_chosen_by_the_pointer(page, study):
    link = Linked(page, CompareRuns(study))
    page.select_option(".compare-runs select", "evaluation/chains/accuracy")
    box = page.locator(".chart").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.95, box["y"] + box["height"] * 0.5)
    link.until(lambda: page.locator(".rollout").count() == 12)
    kind, name = page.get_attribute(".compare-runs", "data-chosen").split("|")[1].split("/")[:2]
    assert (kind, name) == ("evaluation", "chains") and "after phase 6" in page.text_content(".rollouts h3")


@browser
def test_numbers_arms_and_metrics(page, study):
    Linked(page, CompareRuns(study))
    page.locator(".chart").press("End")
    rows = {
        row.locator("th").text_content(): row.locator("td").all_text_contents()
        for row in page.locator(".numbers tbody tr").all()
    }
    mean, low, high = mean_interval([0.5 + 0.24 + 0.02 * seed for seed in range(3)])
    assert rows["random, upper clip only"] == [
        f"{mean:.1%}".replace("%", " %"),
        f"{low:.1%} to {high:.1%}".replace("%", " %"),
        "3",
    ]  # a share as a percentage
    assert page.locator(".chart g[data-arm] .mean").count() == 2 and page.locator(".chart .single").count() == 6
    page.uncheck(".arms label:has-text('upper clip') input")
    assert page.locator(".chart g[data-arm] .mean").count() == 1
    page.uncheck(".tick input")
    assert page.locator(".chart .single").count() == 0
    for value in page.evaluate("[...document.querySelector('.compare-runs select').options].map((o) => o.value)"):
        page.select_option(".compare-runs select", value)
        assert page.get_attribute(".compare-runs", "data-metric") == value and "NaN" not in page.inner_html(".chart")


@browser
def test_a_run_that_goes_on(page, tmp_path):
    write_study(tmp_path, arms=("high",), seeds=1, phases=2)
    view = CompareRuns(tmp_path)
    link = Linked(page, view)
    from spurious_rlvr.runs import resume_run

    writer = resume_run(tmp_path / "high-seed0")
    writer.write_rollouts(3, rollouts(3, 0))
    writer.log("phase", phase=3, accuracy=0.9, reward=0.5)
    page.click("[data-action=refresh]")
    link.until(lambda: "phase 3" in page.text_content(".numbers caption"))
    page.locator(".chart").press("End")
    page.keyboard.press("Enter")
    link.until(lambda: page.locator(".rollout").count() == 12)
    assert "phase 3" in page.text_content(".rollouts h3")


@browser
def test_reading_again_keeps_the_point_and_says_what_went_wrong(page, tmp_path, monkeypatch):
    "Also where the answer to the chosen point was still under way."
    write_study(tmp_path, arms=("high",), seeds=1, phases=2)
    view = CompareRuns(tmp_path)
    link = Linked(page, view)
    from spurious_rlvr.runs import resume_run

    page.locator(".chart").press("Home")
    page.keyboard.press("Enter")
    writer = resume_run(tmp_path / "high-seed0")
    writer.write_rollouts(3, rollouts(3, 0))
    writer.log("phase", phase=3, accuracy=0.9, reward=0.5)
    page.click("[data-action=refresh]")
    link.until(lambda: "phase 3" in page.text_content(".numbers caption"))
    link.until(lambda: page.locator(".rollout").count() == 12)
    assert "phase 1" in page.text_content(".rollouts h3")

    def lost():
        raise RunError(f"{tmp_path}: is gone")

    monkeypatch.setattr(view, "refresh", lost)
    page.click("[data-action=refresh]")
    link.until(lambda: "is gone" in page.text_content(".rollouts .note"))


@browser
def test_hostile_texts_do_nothing_and_read_back(page, tmp_path):
    text, name = (
        "\n".join(t.encode("utf-8", "backslashreplace").decode() for t in HOSTILE),
        "<img src=x onerror=\"document.title='owned'\">\u202e",
    )
    writer = create_run(
        tmp_path / "bad", config=dict(seed="<script>document.title='owned'</script>"), arm=name, reward=name
    )
    made = rollouts(1, 0, 2)
    made[0].completion = made[0].prompt = made[0].answer = made[0].gold = text
    made[1].completion = "y" * 1_000_000
    writer.write_rollouts(1, made)
    writer.log("phase", phase=1, accuracy=0.5)
    writer.log("evaluation", phase=1, name=name, accuracy=0.4)
    view = CompareRuns(tmp_path)
    assert "\u202e" not in repr(view)
    link = Linked(page, view)
    page.locator(".chart").press("Home")
    page.keyboard.press("Enter")
    link.until(lambda: page.locator(".rollout").count() == 2)
    assert page.evaluate("[...document.querySelectorAll('.rollout > .span-text')].map((n) => n.textContent)") == [
        text,
        "y" * 1_000_000,
    ]
    for field in (".prompt", "[data-field=answer]", "[data-field=gold]"):
        assert page.text_content(f".rollout {field}") == text
    assert page.text_content(".arms label span") == name
    shot(page, "compare_hostile")
    html = view.to_html(page=True)
    page.set_content(html)
    page.wait_for_selector(".compare-runs .chart")
    page.locator(".chart").press("Home")
    page.keyboard.press("Enter")
    page.wait_for_selector(".rollout")
    assert card_texts(page)[0] == text
    assert page.title() != "owned" and page.locator(".rollout img, .rollout script, .arms img").count() == 0


@browser
def test_the_exported_page_needs_nothing(chromium, study, tmp_path):
    (tmp_path / "page.html").write_text(CompareRuns(study).to_html(page=True), encoding="utf-8")
    context = chromium.new_context(offline=True, viewport=dict(width=1000, height=900))
    page, asked = context.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"file://{tmp_path}/page.html")
    page.locator(".chart").press("End")
    page.keyboard.press("Enter")
    page.wait_for_selector(".rollout")
    assert card_texts(page) == read_run(study / "both-seed0").rollouts(6)["completion"].tolist()[:4]
    assert "holds up to 4 rollouts" in page.text_content(".compare-runs") and asked == [f"file://{tmp_path}/page.html"]
    context.close()


@browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_looks(page, tmp_path, theme):
    def wave(arm, seed, phase):
        return (
            0.5
            + 0.35 * np.tanh(phase / 8) * dict(high=1, both=0.3, none=-0.2, low=-0.8)[arm]
            + 0.04 * float(keyed_rng(5, arm, seed, phase).normal())
            + 0.03 * seed
        )

    write_study(tmp_path, arms=("high", "both", "none", "low"), seeds=4, phases=24, accuracy=wave)
    link = Linked(page, CompareRuns(tmp_path), theme)
    page.locator(".chart").press("End")
    page.keyboard.press("Enter")
    link.until(lambda: page.locator(".rollout").count() == 12)
    shot(page, f"compare_{theme}")
