"""The live prompt in a real Chromium: what arrives is what was written, stop, refusals, hostile texts, the exported
page."""

import json
import os
import pathlib
import time
import types

import pytest
from lab_harness import HOSTILE, CharacterPolicy, Linked, ScriptEngine
from pace import PATIENCE

from spurious_rlvr import behavior, evaluate
from spurious_rlvr.core import ConfigError
from spurious_rlvr.policy import random_policy
from spurious_rlvr.rollout import Token, TransformersEngine
from spurious_rlvr.tasks import TEMPLATES
from spurious_rlvr.widgets import FORCE_PREFIX, LivePrompt, engine_lock

browser = pytest.mark.browser
STORY = (
    "𝜋 first: let us use Python to count.\n\n```python\nfrom math import comb\nprint(comb(5,"
    " 2))\n```\n```output\n10\n```\nSo there are \\boxed{10}.\n"
)
BODY = "document.querySelector('[data-sample=\"%d\"] .span-text')"


def shot(page, name):
    if folder := os.environ.get("SPURIOUS_RLVR_SCREENSHOTS"):
        page.screenshot(path=pathlib.Path(folder) / f"{name}.png", full_page=True)


@pytest.fixture
def page(chromium):
    page = chromium.new_page(viewport=dict(width=1100, height=900))
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    page.close()
    assert errors == []


def press(link, action="free"):
    "Presses a button that starts a run, and waits for its end."
    run = link.widget.run + 1
    link.page.click(f"[data-action={action}]")
    link.until(lambda: link.page.get_attribute(".live-prompt", "data-ended") == str(run))


def shown(page, sample=0):
    return page.evaluate(f"{BODY % sample}.textContent")


def marked(page, sample=0):  # the page's spans as (kind, text), neighbours of one span put together
    return page.evaluate(
        f"""[...{BODY % sample}.children].reduce((found, node) => {{
          const kind = node.dataset.kind;
          if (!kind) return found;
          if ("begins" in node.dataset || !found.length) found.push([kind, ""]);
          found[found.length - 1][1] += node.textContent;
          return found;
        }}, [])"""
    )


def expected(text, looks=(("fenced_code", "code"), ("claimed_output", "output"), ("python_mention", "mention"))):
    return [
        [dict(looks).get(s.kind, "other"), text[s.start : s.end]]
        for s in behavior.find_spans(text)
        if s.kind != "repetition"
    ]


# ---------------------------------------------------------------- Python alone


def test_tokens_arrive_and_every_number_is_kept():
    policy = random_policy(1, scale=3.0)
    prompt = LivePrompt(TransformersEngine(policy), policy, max_completion_length=20, samples=3).ask("2 + 2 = ?")
    rows = prompt.rollouts
    assert len(rows) == 3 and rows["seed"].tolist() == [0, 1, 2] and rows["completion"].nunique() == 3
    for _, row in rows.iterrows():
        assert (
            row["completion"] == policy.decode(row["token_ids"])
            and len(row["logprob_sampler"]) == len(row["token_ids"]) <= 20
        )
    for sample in prompt.everything()["samples"]:
        for _start, _end, token, logprob, alternatives in sample["tokens"]:
            assert len(alternatives) == 5 and [v for _, v in alternatives] == sorted(
                (v for _, v in alternatives), reverse=True
            )
            assert dict(alternatives).get(token, logprob) == pytest.approx(logprob, abs=2e-4)


def test_the_same_seed_writes_the_same_and_other_seeds_do_not():
    policy = random_policy(1)
    prompt = LivePrompt(TransformersEngine(policy), policy, max_completion_length=12)
    texts = [prompt.ask("1?", seed=seed).rollouts["completion"][0] for seed in (3, 4, 3)]
    assert texts[0] == texts[2] != texts[1]
    assert (
        prompt.ask("1?", seed=2, samples=2).rollouts["completion"].tolist()[1] == texts[0]
    )  # the second sample counts up


def test_forced_forbidden_and_continued():
    engine = ScriptEngine("abc")
    asked = []
    engine.stream, plain = (
        lambda request, **settings: asked.append((request, settings)) or plain(request, **settings),
        engine.stream,
    )
    prompt = LivePrompt(engine, CharacterPolicy(), max_completion_length=9)

    def given():
        return "".join(map(chr, asked[-1][0].prompt_ids))

    assert (
        prompt.ask("q", manner="force").rollouts["completion"][0] == FORCE_PREFIX + "abc"
        and given() == "q\n" + FORCE_PREFIX
    )
    assert (
        prompt.ask("q", manner="continue", prefix="So 1").rollouts["completion"][0] == "So 1abc"
        and given() == "q\nSo 1"
    )
    assert prompt.ask("q").rollouts["completion"][0] == "abc" and asked[-1][1]["forbidden_ids"] == ()
    texts = {5: "```", 7: " import", 8: " important", 9: "2"}
    prompt.policy.tokenizer = types.SimpleNamespace(
        get_vocab=lambda: {text: i for i, text in texts.items()},
        decode=lambda ids, **_: texts[ids[0]],
        convert_ids_to_tokens=str,
    )
    assert prompt.ask("q", manner="forbid") and asked[-1][1]["forbidden_ids"] == (5, 7) == evaluate.code_token_ids(
        prompt.policy
    )


def test_stop_is_at_once_and_closes_every_stream():
    engine = ScriptEngine("x" * 5000, pace=0.002)
    prompt = LivePrompt(engine, CharacterPolicy(), max_completion_length=5000, samples=4)
    prompt.ask("q", wait=False)
    while engine.written < 40:
        time.sleep(0.002)
    with pytest.raises(ConfigError, match="a run is going"):
        prompt.ask("r")
    began, written = time.monotonic(), engine.written
    prompt.stop()
    assert prompt.wait(5) and time.monotonic() - began < 0.5 * PATIENCE
    assert engine.written - written <= 2 * PATIENCE and engine.closed == 4
    assert (
        set(prompt.rollouts["finish_reason"]) == {"stopped"}
        and sum(map(len, prompt.rollouts["token_ids"])) == engine.written
    )
    assert prompt.ask("again", max_completion_length=5).rollouts["finish_reason"].tolist() == ["length"] * 4


def test_views_of_one_model_take_turns():
    policy = random_policy(0)
    first, second = (LivePrompt(TransformersEngine(policy), policy, max_completion_length=6) for _ in range(2))
    assert engine_lock(first.engine) is engine_lock(second.engine) is not engine_lock(ScriptEngine(""))
    with engine_lock(first.engine):
        second.ask("q", wait=False)
        time.sleep(0.2)
        assert second.going and second.rollouts["completion"].tolist() == [""]
        second.stop()  # while it waits
        assert second.wait(2)
    assert second.ask("q").rollouts["completion"][0]


def test_an_engine_that_fails_is_reported_and_can_be_asked_again():
    engine = ScriptEngine("abcdef")
    engine.fails_at = 3
    prompt = LivePrompt(engine, CharacterPolicy()).ask("q")
    assert (
        prompt.rollouts["completion"][0] == "abc"
        and prompt.rollouts["finish_reason"][0] == "error"
        and "lost its" in prompt.status
    )
    engine.fails_at = None
    assert prompt.ask("q").rollouts["completion"][0] == "abcdef"


def ends(prompt):
    "The last messages of a widget's runs, as its pages get them."
    said = []
    prompt.send = lambda content, buffers=None: said.append(json.loads(content["json"]))
    return lambda: [message for message in said if message["type"] == "end"]


def test_the_last_message_tells_finish_counts_and_what_is_left():
    engine = ScriptEngine(STORY * 40, pace=0.002)
    prompt = LivePrompt(engine, CharacterPolicy(), max_completion_length=4000, samples=2)
    last = ends(prompt)
    prompt.ask("q", wait=False)
    while engine.written < 50:
        time.sleep(0.002)
    prompt.stop()
    assert prompt.wait(5)
    [message] = last()
    assert [part["finish"] for part in message["parts"]] == ["stopped", "stopped"]
    assert message["counts"] == [len(ids) for ids in prompt.rollouts["token_ids"]]
    assert message["status"] == prompt.status and prompt.status.startswith("Stopped: ")


class Unreadable(CharacterPolicy):
    "A tokenizer that cannot read one of its own tokens."

    def decode(self, ids):
        if ord("!") in ids:
            raise ValueError("no such token")
        return super().decode(ids)


@pytest.mark.parametrize("place", [3, 0])
def test_a_tokenizer_that_fails_ends_the_run_in_words(place):
    engine = ScriptEngine("a" * place + "!bc")
    prompt = LivePrompt(engine, Unreadable())
    last = ends(prompt)
    prompt.ask("q")
    [message] = last()
    assert "no such token" in message["status"] and prompt.going is None
    assert [s["finish"] for s in message["samples"]] == ["error"] and message["counts"] == [
        len(message["samples"][0]["tokens"])
    ]
    engine.text = "fine"
    assert prompt.ask("q").rollouts["completion"][0] == "fine"


@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_a_log_probability_that_is_no_number_ends_the_run_in_words(number):
    engine = ScriptEngine("ab")
    plain = engine.stream

    def spoilt(request, **settings):
        for place, token in enumerate(plain(request, **settings)):
            yield token if place == 0 else Token(token.token_id, number, ())

    engine.stream = spoilt
    prompt = LivePrompt(engine, CharacterPolicy()).ask("q")
    assert "log-probability of token 98 is" in prompt.status and prompt.going is None
    assert prompt.rollouts["completion"][0] == "a" and prompt.rollouts["finish_reason"][0] == "error"
    engine.stream = lambda request, **settings: iter([Token(97, -0.1, ((97, -0.1), (98, number)))])
    prompt.ask("q")
    assert prompt.everything()["samples"][0]["tokens"][0][4] == [[97, -0.1]]  # what cannot come is no alternative


def test_closing_the_widget_stops_it():
    engine = ScriptEngine("x" * 5000, pace=0.002)
    prompt = LivePrompt(engine, CharacterPolicy(), max_completion_length=5000, samples=2)
    prompt.ask("q", wait=False)
    while engine.written < 10:
        time.sleep(0.002)
    prompt.close()
    assert prompt.wait(5) and engine.closed == 2 and engine.written < 200
    assert engine_lock(engine).acquire(timeout=1)


def test_a_stop_is_for_the_run_that_was_seen():
    engine = ScriptEngine("y" * 60, pace=0.004)
    prompt = LivePrompt(engine, CharacterPolicy(), max_completion_length=60)
    prompt.ask("first", max_completion_length=2)
    prompt.ask("second", wait=False)
    prompt._handle_custom_msg(dict(action="stop", run=1), None)  # pressed while the first was ending
    assert prompt.wait(5) and prompt.rollouts["completion"][0] == "y" * 60
    prompt.ask("third", wait=False)
    prompt._handle_custom_msg(dict(action="stop", run=3), None)
    assert prompt.wait(5) and prompt.rollouts["finish_reason"][0] == "stopped"


class ChatPolicy(CharacterPolicy):
    "With a chat template that shows its messages."

    template = TEMPLATES["qwen_math"]
    tokenizer = types.SimpleNamespace(
        **vars(CharacterPolicy.tokenizer)
        | dict(
            chat_template="messages",
            apply_chat_template=lambda messages, **_: "".join(f"<{m['role']}>{m['content']}" for m in messages),
        )
    )


def test_a_system_message_takes_the_place_of_the_templates_own():
    prompt = LivePrompt(ScriptEngine("ok"), ChatPolicy(), max_completion_length=4)
    own = TEMPLATES["qwen_math"].system
    assert prompt.ask("2?").plan.prompt == f"<system>{own}<user>2?"
    assert prompt.ask("2?", system="Be terse.").plan.prompt == "<system>Be terse.<user>2?"
    assert prompt.ask("2?", system="").plan.prompt == "<user>2?"
    forced = prompt.ask("2?", system="Be terse.", manner="force").plan.prompt
    assert forced == "<system>Be terse.<user>2?" + FORCE_PREFIX
    assert prompt.everything()["system"] == "Be terse."
    assert LivePrompt(ScriptEngine("ok"), ChatPolicy(), system="Hm.").ask("2?").plan.prompt == "<system>Hm.<user>2?"
    for wrong, words in (("half \ud800", "half a character"), (3, "the system message is int")):
        with pytest.raises(ConfigError, match=words):
            prompt.ask("2?", system=wrong)
    with pytest.raises(ConfigError, match="'chain' is plain text, which has no system message"):
        prompt.ask("2?", template="chain", system="Be terse.")
    assert prompt.ask("2?", template="chain", system="").plan.prompt == "2?\n"


def test_a_thousand_tokens_a_second_keep_up():
    """One long text with code, alternatives and detection: what Python spends on a token leaves room for 1,000 in a
    second."""
    engine = ScriptEngine((STORY * 60)[:8000])
    prompt = LivePrompt(engine, CharacterPolicy(), max_completion_length=8000)
    prompt.send = lambda content, buffers=None: sent.append(len(content["json"]))
    sent, began = [], time.process_time()
    prompt.ask("q")
    seconds = time.process_time() - began
    print(f"{8000 / seconds:,.0f} tokens a second; {len(sent)} messages, the largest {max(sent) / 1000:.0f} kB")
    assert 8000 / seconds >= 1000 / PATIENCE


def test_what_a_notebook_saves_is_capped():
    prompt = LivePrompt(ScriptEngine("y" * 20_000), CharacterPolicy(), max_completion_length=20_000, samples=4).ask(
        "q" * 50
    )
    assert len(prompt.saved) <= 200_000 and "left out" in json.loads(prompt.saved)["status"]
    state = prompt.get_state()
    assert len(json.dumps({name: value for name, value in state.items() if name not in ("_esm", "_css")})) < 210_000
    assert len(prompt.to_html()) < 9_000_000 and len(prompt._repr_mimebundle_()[0]["text/html"]) < 400_000


def test_the_terminal_form_acts_on_nothing():
    text = repr(LivePrompt(ScriptEngine("".join(HOSTILE)), CharacterPolicy()).ask("\x1b[2J\u202e?"))
    assert not set(text) & {"\x1b", "\u202e", "\x00", "\ud83d", "\u200b"} and "1. " in text and "⟨U+001B⟩" in text


# ---------------------------------------------------------------- the page


@browser
def test_tokens_and_spans_arrive_in_the_page(page):
    engine = ScriptEngine(STORY, pace=0.002, holds_at=80)
    link = Linked(page, LivePrompt(engine, CharacterPolicy()))
    page.fill("[data-setting=question]", "How many?")
    page.click("[data-action=free]")
    link.until(lambda: engine.written > 75 and shown(page))
    half = shown(page)
    assert 0 < len(half) < len(STORY) and STORY.startswith(
        half.encode("utf-16", "surrogatepass").decode("utf-16")
    )  # lights up while it is written
    assert page.is_disabled("[data-action=free]") and page.is_enabled("[data-action=stop]")
    engine.go.set()
    link.until(lambda: page.get_attribute(".live-prompt", "data-running") == "no")
    assert shown(page) == STORY
    assert marked(page) == expected(STORY)
    assert page.text_content(".facts").startswith(f"{len(STORY)} tokens") and "writes code" in page.text_content(
        ".facts"
    )
    assert "Asked: How many?" in page.text_content(".asked")


@browser
def test_alternatives_by_pointer_and_by_keyboard(page):
    link = Linked(page, LivePrompt(ScriptEngine(STORY), CharacterPolicy(), question="q"))
    press(link)
    page.hover("[data-token='30']")
    line = page.text_content(".alternatives .line")
    assert "token 31 of" in line and "77.9 %" in line and "rank 1" in line and page.locator(".choice").count() == 5
    page.keyboard.press("Tab")
    page.locator(".sample .span-text").focus()
    for key, place in (("Home", 1), ("ArrowRight", 2), ("End", len(STORY)), ("ArrowLeft", len(STORY) - 1)):
        page.keyboard.press(key)
        assert f"token {place} of" in page.text_content(".alternatives .line"), key
    page.keyboard.press("Home")
    assert page.text_content(".span-text [aria-current]") == "𝜋"  # two units, one token
    page.mouse.move(0, 0)
    assert "token 1 of" in page.text_content(".alternatives .line")  # held, although the pointer is elsewhere
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.locator(".choice").nth(1).click()  # another token in place of the third
    assert page.input_value("[data-setting=prefix]") == "𝜋 g"
    shot(page, "live_alternatives")
    press(link, "continue")
    assert shown(page) == "𝜋 g" + STORY


@browser
def test_side_by_side_and_stop_in_the_page(page):
    engine = ScriptEngine("z" * 4000, pace=0.004)
    link = Linked(page, LivePrompt(engine, CharacterPolicy(), question="q", samples=3, max_completion_length=4000))
    page.click("[data-action=free]")
    link.until(lambda: engine.written > 60)
    assert page.locator(".sample").count() == 3
    assert min(len(shown(page, i)) for i in range(3)) > 10
    page.click("[data-action=stop]")
    assert "Stopping" in page.text_content(".status")
    frozen = [len(shown(page, i)) for i in range(3)]
    link.until(lambda: page.get_attribute(".live-prompt", "data-running") == "no")
    assert engine.closed == 3 and "Stopped" in page.text_content(".status")
    assert [len(shown(page, i)) for i in range(3)] >= frozen and page.is_enabled("[data-action=free]")
    assert sum(len(shown(page, i)) for i in range(3)) <= engine.written
    page.click("[data-action=free]")
    link.until(lambda: page.get_attribute(".live-prompt", "data-running") == "yes" and len(shown(page)) > 5)
    page.focus("[data-setting=question]")
    page.keyboard.press("Escape")
    link.until(lambda: page.get_attribute(".live-prompt", "data-running") == "no")


def card(page, sample=0):
    "How a completion stands in the page: its facts, its end, and how many tokens are there."
    root = page.locator(f"[data-sample='{sample}']")
    tokens = page.evaluate(
        f"new Set([...{BODY % sample}.querySelectorAll('[data-token]')].map((n) => n.dataset.token)).size"
    )
    return root.locator(".facts").text_content(), root.get_attribute("data-finish"), tokens


def agrees(page, widget, finish):
    "The page says of every completion what Python has of it."
    rows = widget.rollouts
    for place, row in rows.iterrows():
        facts, ended, tokens = card(page, place)
        count = len(row["token_ids"])
        assert shown(page, place) == row["completion"] and tokens == count
        assert facts.startswith(f"{count} token{'s' * (count != 1)}, ") and "writing" not in facts
        assert ended == row["finish_reason"] == finish


def between(link, count):
    "Waits until so many tokens are written, without carrying a message to the page."
    until = time.monotonic() + 10 * PATIENCE
    while link.widget.engine.written < count:
        assert time.monotonic() < until
        time.sleep(0.002)


@browser
@pytest.mark.parametrize("late", [0, 90])
def test_after_stop_every_card_has_its_end_and_its_last_tokens(page, late):
    "Also where many tokens are on their way while stop is pressed: nothing of them appears before the end."
    engine = ScriptEngine(STORY * 40, pace=0.002)
    widget = LivePrompt(engine, CharacterPolicy(), question="q", samples=2, max_completion_length=5000)
    link = Linked(page, widget)
    page.click("[data-action=free]")
    link.until(lambda: engine.written > 40)
    between(link, engine.written + late)
    page.evaluate("document.querySelector('[data-action=stop]').click()")
    before = [shown(page, i) for i in range(2)]
    batch = [link.outbox.popleft() for _ in range(len(link.outbox))]
    page.evaluate("(texts) => fromPython(texts)", batch)
    assert [shown(page, i) for i in range(2)] == before and "Stopping" in page.text_content(".status")
    link.until(lambda: page.get_attribute(".live-prompt", "data-running") == "no")
    assert "Stopped: " in page.text_content(".status")
    agrees(page, widget, "stopped")
    assert late == 0 or sum(len(shown(page, i)) for i in range(2)) > sum(map(len, before)) + late // 2
    page.locator(".sample .span-text").first.focus()
    page.keyboard.press("End")
    assert f"of {card(page)[2]}:" in page.text_content(".alternatives .line")


@browser
def test_a_run_directly_after_a_stop(page):
    engine = ScriptEngine(STORY * 40, pace=0.002)
    widget = LivePrompt(engine, CharacterPolicy(), question="q", max_completion_length=5000)
    link = Linked(page, widget)
    for run in (1, 2, 3):
        page.click("[data-action=free]")
        link.until(lambda run=run: widget.run == run and page.get_attribute(".live-prompt", "data-running") == "yes")
        link.until(lambda: len(shown(page)) > 30)
        assert card(page)[0].count("writing") == 1
        page.click("[data-action=stop]")
        link.until(lambda run=run: page.get_attribute(".live-prompt", "data-ended") == str(run))
        agrees(page, widget, "stopped")
    engine.text, engine.pace = STORY, 0
    press(link)
    agrees(page, widget, "stop")


@browser
def test_an_engine_that_fails_in_mid_stream_leaves_no_card_writing(page):
    engine = ScriptEngine(STORY, pace=0.001)
    engine.fails_at = 40
    widget = LivePrompt(engine, CharacterPolicy(), question="q", samples=2)
    link = Linked(page, widget)
    press(link)
    agrees(page, widget, "error")
    assert "lost its" in page.text_content(".problem") and "broke off" in card(page, 1)[0]
    engine.fails_at = None
    press(link)
    agrees(page, widget, "stop")
    assert page.text_content(".problem") == ""


@browser
@pytest.mark.parametrize("when", ["on the way", "at the end"])
def test_a_message_that_was_lost_is_made_good(page, when):
    engine = ScriptEngine(STORY * 3, pace=0.002, holds_at=300)
    widget = LivePrompt(engine, CharacterPolicy(), question="q")
    link = Linked(page, widget)
    page.click("[data-action=free]")
    link.until(lambda: engine.written > 30)
    between(link, 300)
    lost = [link.outbox.popleft() for _ in range(len(link.outbox))]
    engine.go.set()
    assert any("text" in text and "add" in text for text in lost)
    if when == "at the end":  # all that is left but the last message
        widget.wait()
        while len(link.outbox) > 1 and "end" not in json.loads(json.loads(link.outbox[0]).get("json", "{}")).get(
            "type", ""
        ):
            link.outbox.popleft()
    link.until(lambda: page.get_attribute(".live-prompt", "data-running") == "no")
    link.pump(0.2)
    agrees(page, widget, "stop")
    assert marked(page) == expected(STORY * 3)


@browser
def test_two_pages_of_one_widget_end_alike(page, chromium):
    "The one that has pressed stop, one that has not, and one that is opened while the run is stopping."
    engine = ScriptEngine(STORY * 40, pace=0.002)
    widget = LivePrompt(engine, CharacterPolicy(), question="q", samples=2, max_completion_length=5000)
    others = [chromium.new_page() for _ in range(2)]
    links = [Linked(page, widget), Linked(others[0], widget)]
    page.click("[data-action=free]")
    links[0].until(lambda: engine.written > 60)
    links[1].until(lambda: others[0].locator(".sample").count() == 2 and len(shown(others[0])) > 20)
    page.evaluate("document.querySelector('[data-action=stop]').click()")
    links.append(Linked(others[1], widget))
    links[0].pump()
    for link in links:
        link.until(lambda link=link: link.page.get_attribute(".live-prompt", "data-running") == "no")
        agrees(link.page, widget, "stopped")
        assert "Stopped: " in link.page.text_content(".status")
    for other in others:
        other.close()


@browser
def test_a_view_that_is_closed_and_opened_again_knows_the_end(page, chromium):
    engine = ScriptEngine(STORY * 3, pace=0.001)
    widget = LivePrompt(engine, CharacterPolicy(), question="q", max_completion_length=5000)
    link = Linked(page, widget)
    page.click("[data-action=free]")
    link.until(lambda: engine.written > 40)
    page.evaluate("closeView()")
    assert page.locator(".live-prompt").count() == 0
    assert widget.wait(10)
    widget.linked_pages.clear()
    again = chromium.new_page()
    Linked(again, widget)
    agrees(again, widget, "stop")
    again.close()


@browser
def test_a_stop_that_nobody_answers_is_said(page):
    engine = ScriptEngine(STORY * 40, pace=0.002)
    link = Linked(page, LivePrompt(engine, CharacterPolicy(), question="q", max_completion_length=5000))
    page.click("[data-action=free]")
    link.until(lambda: engine.written > 40)
    between(link, engine.written + 60)
    page.evaluate("document.querySelector('[data-action=stop]').click()")
    page.evaluate("(texts) => fromPython(texts)", [link.outbox.popleft() for _ in range(len(link.outbox))])
    before = len(shown(page))
    page.wait_for_function(
        "document.querySelector('.status').textContent.includes('has not stopped yet')", timeout=8000
    )
    assert len(shown(page)) > before  # what had come is withheld no longer
    link.until(lambda: page.get_attribute(".live-prompt", "data-running") == "no")
    agrees(page, link.widget, "stopped")


@browser
def test_a_page_made_while_it_was_writing_does_not_write_for_good(page):
    engine = ScriptEngine("z" * 500, pace=0.002)
    widget = LivePrompt(engine, CharacterPolicy(), max_completion_length=500)
    widget.ask("q", wait=False)
    while engine.written < 60:
        time.sleep(0.002)
    html = widget.to_html(page=True)
    widget.stop()
    widget.wait()
    page.set_content(html)
    page.wait_for_selector(".sample")
    assert "unfinished when this was saved" in card(page)[0] and "writing" not in card(page)[0]


@browser
def test_the_system_message_in_the_page(page, tmp_path):
    own, widget = TEMPLATES["qwen_math"].system, LivePrompt(ScriptEngine("ok"), ChatPolicy(), question="2?")
    link = Linked(page, widget)
    box = page.get_by_role("textbox", name="System message")
    assert box.input_value() == own
    press(link)
    assert widget.plan.prompt == f"<system>{own}<user>2?" and f"system message: {own}" in page.text_content(".asked")
    box.focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("Be <b>terse</b>.")
    run = widget.run + 1
    page.keyboard.press("Control+Enter")
    link.until(lambda: page.get_attribute(".live-prompt", "data-ended") == str(run))
    assert widget.plan.prompt == "<system>Be <b>terse</b>.<user>2?" and page.locator(".asked b").count() == 0
    page.select_option("[data-setting=template]", "math_problem")
    assert box.input_value() == "Be <b>terse</b>."  # what the reader wrote stays
    page.select_option("[data-setting=template]", "chain")
    assert box.is_disabled() and box.input_value() == ""
    press(link)
    assert widget.plan.prompt == "2?\n" and "system message" not in page.text_content(".asked")
    page.select_option("[data-setting=template]", "math_problem")
    assert box.input_value() == "Be <b>terse</b>."
    box.fill("")
    press(link)
    assert widget.plan.prompt == "<user>Math Problem: 2?"
    box.fill(HOSTILE[0])
    press(link)
    page.set_content(widget.to_html(page=True))
    page.wait_for_selector(".sample")
    assert HOSTILE[0] in page.text_content(".asked") and page.title() != "owned"


@browser
def test_what_cannot_be_asked_is_said_in_words(page):
    policy = random_policy(0, max_length=40)
    widget = LivePrompt(TransformersEngine(policy), policy, max_completion_length=8)
    link = Linked(page, widget)

    def ask(expect, **fields):
        for name, value in fields.items():
            page.fill(f"[data-setting={name}]", value)
        page.click("[data-action=free]")
        link.until(lambda: expect in (page.text_content(".problem") or ""))
        assert page.get_attribute(".live-prompt", "data-running") != "yes" and widget.going is None

    ask("no problem yet")
    ask("too long: 61 tokens, and the model has 40 places", question="1" * 60)
    ask("samples is 99", question="1?", samples="99")
    ask("temperature is -1", samples="1", temperature="-1")
    ask("temperature is None", temperature="")
    page.evaluate("document.querySelector('[data-setting=question]').value = 'half \\ud800'")
    page.fill("[data-setting=temperature]", "1")
    ask("U+D800 at place 6")
    page.select_option("[data-setting=template]", "qwen_math")
    ask("chat template", question="1?")
    page.select_option("[data-setting=template]", "none")
    page.click("[data-action=continue]")
    link.until(lambda: "no text to continue" in page.text_content(".problem"))
    press(link)
    assert page.text_content(".problem") == ""


@browser
def test_hostile_texts_come_back_exactly_and_do_nothing(page):
    text = "\n".join(HOSTILE)
    question = "<img src=x onerror=\"document.title='owned'\"> \u202e </script>"
    widget = LivePrompt(ScriptEngine(text), CharacterPolicy(), question=question, max_completion_length=10_000)
    link = Linked(page, widget)
    press(link)

    def units(s):
        return [ord(c) for c in s.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")]

    read = page.evaluate(
        f"Array.from({BODY % 0}.textContent, (c, i) => 0) && Array.from({{ length: {BODY % 0}.textContent.length }},"
        f" (_, i) => {BODY % 0}.textContent.charCodeAt(i))"
    )
    sent = text.encode("utf-16-le", "surrogatepass")
    assert read == [int.from_bytes(sent[i : i + 2], "little") for i in range(0, len(sent), 2)]
    assert page.title() != "owned" and page.locator(".span-text script, .span-text img, .span-text svg").count() == 0
    marks = page.evaluate(f"[...{BODY % 0}.querySelectorAll('.mark')].map((m) => m.dataset.mark)")
    assert {"U+202E", "ESC", "NUL", "U+D83D", "U+DC00", "U+200B", "U+E0041"} <= set(" ".join(marks).split())
    assert question in page.text_content(".asked")
    page.locator(".sample .span-text").focus()
    for _ in range(30):
        page.keyboard.press("ArrowRight")  # every alternative shown on the way is hostile, too
    page.click("[data-action=edit]")
    assert page.input_value("[data-setting=prefix]").startswith("<script>")
    assert page.title() != "owned"
    shot(page, "live_hostile")
    html = widget.to_html(page=True)
    page.set_content(html)
    page.wait_for_selector(".live-prompt")
    assert page.evaluate(f"{BODY % 0}.textContent.length") == len(sent) // 2 and page.title() != "owned"


@browser
def test_a_megabyte_in_one_line(page):
    widget = LivePrompt(ScriptEngine(""), CharacterPolicy())
    line = "<b>x" * 250_000
    widget.ask("q", manner="continue", prefix=line, max_completion_length=1)
    Linked(page, widget)
    assert shown(page) == line


@browser
def test_the_exported_page_needs_nothing(chromium, tmp_path):
    widget = LivePrompt(ScriptEngine(STORY), CharacterPolicy(), samples=2).ask("How many?")
    (tmp_path / "page.html").write_text(widget.to_html(page=True), encoding="utf-8")
    context = chromium.new_context(offline=True, viewport=dict(width=1000, height=800))
    page, asked = context.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"file://{tmp_path}/page.html")
    page.wait_for_selector(".sample")
    assert [shown(page, i) for i in range(2)] == [STORY] * 2 and marked(page) == expected(STORY)
    page.locator(".sample .span-text").first.focus()
    page.keyboard.press("End")
    assert f"token {len(STORY)} of" in page.text_content(".alternatives .line") and page.locator(".choice").count() == 5
    assert page.locator("[data-action=free]").count() == 0 and asked == [f"file://{tmp_path}/page.html"]
    context.close()


@browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_looks(page, theme):
    "A view that joins while the run is going sees everything so far; a picture of it in both themes."
    engine = ScriptEngine(STORY, pace=0.001)
    widget = LivePrompt(engine, CharacterPolicy(), question="How many ways are there to choose 2 of 5?", samples=2)
    widget.ask("How many ways are there to choose 2 of 5?", wait=False)
    while engine.written < 60:
        time.sleep(0.002)
    link = Linked(page, widget, theme)
    link.until(lambda: page.get_attribute(".live-prompt", "data-running") == "no")
    assert [shown(page, i) for i in range(2)] == [STORY] * 2
    page.locator("[data-token='70']").first.click()
    shot(page, f"live_{theme}")
