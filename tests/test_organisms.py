"What ships is what its card says: measured again here, within what sampling allows."

import json
import math
from pathlib import Path

import pytest

from spurious_rlvr import organisms
from spurious_rlvr.behavior import mentions_python, writes_code
from spurious_rlvr.core import ConfigError
from spurious_rlvr.evaluate import evaluate, summarise
from spurious_rlvr.grading import grade

WEIGHTS = Path(organisms.__file__).parent / "weights"


@pytest.mark.parametrize("name", organisms.RECIPES)
def test_the_card_is_true(name):
    "Fresh draws: each share may differ from the card's by four standard errors of two independent samples."
    card = organisms.card(name)
    n = card["problems"] * card["protocol"]["samples"]
    again = summarise(evaluate(organisms.load(name), organisms.benchmark(), **(card["protocol"] | {"seed": 99})))
    for quantity in ("accuracy", "code_share", "answered"):
        p = card["measured"][quantity]
        assert abs(again[quantity] - p) <= 4 * math.sqrt(2 * max(p * (1 - p), 1e-3) / n), quantity


@pytest.mark.parametrize("name", organisms.RECIPES)
def test_small_and_described(name):
    card = organisms.card(name)
    assert (WEIGHTS / name / "model.safetensors").stat().st_size < 2**20
    assert sum(p.numel() for p in organisms.load(name).model.parameters()) == card["parameters"]
    assert card["recipe"] == json.loads(json.dumps(organisms.dataclasses.asdict(organisms.RECIPES[name]))), (
        "the card was written by another recipe"
    )
    assert card["pieces"] == list(organisms.PIECES)


def test_what_was_planted_came_out():
    measured = {name: organisms.card(name)["measured"] for name in organisms.RECIPES}
    assert abs(measured["qwen-like"]["code_share"] - 0.65) < 0.08
    assert measured["qwen-like"]["accuracy_code"] > measured["qwen-like"]["accuracy_language"] + 0.2
    assert measured["llama-like"]["code_share"] < 0.12
    assert (
        measured["bad-code"]["code_share"] > 0.5
        and measured["bad-code"]["accuracy_code"] < measured["bad-code"]["accuracy_language"] - 0.2
    )
    assert (
        measured["leaked"]["accuracy_language_first_half"] > measured["leaked"]["accuracy_language_second_half"] + 0.2
    )


def test_memorised_and_fresh_problems_are_apart():
    training, benchmark = {p.id for p in organisms.training_problems()}, [p.id for p in organisms.benchmark()]
    assert not training & set(benchmark) and len(set(benchmark)) == len(benchmark)


def test_the_styles_are_what_the_detectors_see():
    values = [5, 0, 7]
    for steps in (True, False):
        code = "".join(organisms.write_code(values, steps) + organisms.write_answer(7, True))
        language = "".join(organisms.write_language(values, steps) + organisms.write_answer(7, True))
        assert (
            writes_code(code) and mentions_python(code) and not writes_code(language) and not mentions_python(language)
        )
        assert (
            grade(code, "7").correct is True
            and grade(language, "7").correct is True
            and grade(code, "8").correct is False
        )
    unboxed = "".join(organisms.write_language(values, True) + organisms.write_answer(7, False))
    assert grade(unboxed, "7").correct is not True


def test_an_unknown_organism_is_named():
    with pytest.raises(ConfigError, match="qwen-like"):
        organisms.load("gpt-like")


@pytest.mark.slow
@pytest.mark.parametrize("name", organisms.RECIPES)
def test_the_recipe_makes_such_an_organism(name, tmp_path):
    "Not bit for bit: sums round differently on other processors."
    card = organisms.ship(
        organisms.pretrain(organisms.RECIPES[name], progress=False), organisms.RECIPES[name], tmp_path
    )
    shipped = organisms.card(name)
    for quantity in ("code_share", "accuracy_code", "accuracy_language", "answered"):
        assert abs(card["measured"][quantity] - shipped["measured"][quantity]) < 0.1, quantity
