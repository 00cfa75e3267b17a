"""Intervals and tests over prompts: their rates of error, their exactness for few prompts, and that they repeat."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brie_trainer.evaluation.statistics import (
    Chance,
    _interval,
    contrast,
    estimate,
    exponential,
    holm,
    kappa,
    permuted_effect,
    ratio,
    table,
)

CHANCE = Chance(0.95, 1000, 0)
MOST_ALARMS = 18
"""Of 200 at a rate of 5 %: more come once in a hundred times (binomial)."""


def drawn_table(seed: int, prompts: int, shift: float = 0.0):  # type: ignore[no-untyped-def]
    """Skewed values, two a prompt that have the prompt in common."""
    draws = np.random.default_rng(seed)
    common = draws.exponential(size=prompts)
    rows = [(f"p{n % prompts}", (common[n % prompts] + draws.exponential() + shift, 1.0)) for n in range(2 * prompts)]
    return table(rows)


def test_chance_alone_is_called_noise_at_the_stated_rate() -> None:
    found = [contrast(drawn_table(n, 15), drawn_table(n + 10_000, 15), ratio, CHANCE) for n in range(200)]
    alarms = sum(each.p_value is not None and each.p_value <= 0.05 for each in found)
    covered = sum((each.difference.low or 0) <= 0 <= (each.difference.high or 0) for each in found)
    assert alarms <= MOST_ALARMS
    assert alarms >= 3  # a test that never alarms is no test
    assert covered >= 200 - MOST_ALARMS


def test_a_real_difference_is_found() -> None:
    found = [contrast(drawn_table(n, 30, 1.5), drawn_table(n + 10_000, 30), ratio, CHANCE) for n in range(50)]
    assert sum(each.p_value is not None and each.p_value <= 0.05 for each in found) >= 45


def test_answers_to_one_prompt_are_one_witness() -> None:
    """The same two prompts a hundred times over say no more than two prompts."""
    rows = [(f"p{n % 2}", (float(n % 2), 1.0)) for n in range(200)]
    assert (found := estimate(table(rows), ratio, CHANCE)).low == 0.0
    assert found.high == 1.0


def test_five_prompts_can_never_be_more_than_noise() -> None:
    """There are 32 ways to exchange five pairs: the most extreme two of them make 1/16."""
    ones = table([(f"p{n}", (10.0 + n, 1.0)) for n in range(5)])
    others = table([(f"p{n}", (0.0, 1.0)) for n in range(5)])
    for seed in range(5):  # all of them are tried: luck has no part in it
        assert contrast(ones, others, ratio, Chance(0.95, 100, seed)).p_value == 1 / 16


def test_drawn_exchanges_are_never_said_to_be_impossible() -> None:
    """The one at hand is counted with them."""
    ones, others = (table([(f"p{n}", (value, 1.0)) for n in range(20)]) for value in (10.0, 0.0))
    assert contrast(ones, others, ratio, Chance(0.95, 200, 0)).p_value == 1 / 201


def test_where_all_exchanges_are_too_many_the_drawn_ones_say_the_same() -> None:
    ones = table([(f"p{n}", (float(n % 4), 1.0)) for n in range(8)])
    others = table([(f"p{n}", (1.0 + n % 3, 1.0)) for n in range(8)])
    every, drawn = (contrast(ones, others, ratio, Chance(0.95, number, 0)).p_value for number in (256, 255))
    some = contrast(ones, others, ratio, Chance(0.95, 20_000, 0)).p_value
    assert every == some
    assert every == pytest.approx(drawn, abs=0.1)
    assert drawn != every


def test_an_effects_size_and_its_interval_by_hand() -> None:
    """Differences 1, 2 and 3: a mean of 2 over a standard deviation of 1."""
    ones = table([(f"p{n}", (n + 2.0, 1.0)) for n in range(3)])
    others = table([(f"p{n}", (1.0, 1.0)) for n in range(3)])
    assert contrast(ones, others, ratio, CHANCE).effect.value == pytest.approx(2.0)
    differences = np.random.default_rng(3).normal(0.5, 1.0, 200)
    wide = table([(f"p{n:03}", (value, 1.0)) for n, value in enumerate(differences)])
    none = table([(f"p{n:03}", (0.0, 1.0)) for n in range(200)])
    effect = contrast(wide, none, ratio, CHANCE).effect
    size = differences.mean() / differences.std(ddof=1)
    error = math.sqrt((1 + size**2 / 2) / 200)  # of a standardised mean (Hedges and Olkin 1985)
    assert effect.value == pytest.approx(size)
    assert effect.low == pytest.approx(size - 1.96 * error, abs=0.04)
    assert effect.high == pytest.approx(size + 1.96 * error, abs=0.04)
    same = contrast(
        table([("a", (2.1, 1.0)), ("b", (2.1, 1.0))]), table([("a", (1.0, 1.0)), ("b", (1.0, 1.0))]), ratio, CHANCE
    )
    assert same.effect.value is same.effect.low is None


def test_means_are_weighted_by_tokens() -> None:
    found = estimate(table([("a", (10.0, 10.0)), ("b", (2.0, 1.0))]), exponential, CHANCE)
    assert found.value == pytest.approx(math.exp(12 / 11))


def test_intervals_of_few_prompts_are_wider_by_students_t() -> None:
    """Five prompts: the normal's tail at the root of 5/4 times Student's 2.776 of four degrees of freedom."""
    tail = NormalDist().cdf(-math.sqrt(5 / 4) * 2.776445)
    assert _interval(np.linspace(0.0, 1.0, 100_001), 5, 0.95) == pytest.approx((tail, 1 - tail), abs=5e-5)


def test_all_answers_to_a_prompt_count() -> None:
    found = estimate(table([("a", (1.0, 1.0)), ("a", (2.0, 1.0)), ("b", (6.0, 1.0))]), ratio, CHANCE)
    assert found.value == 3.0
    assert (
        contrast(table([("a", (1.0, 1.0)), ("a", (2.0, 1.0))]), table([("a", (0.0, 2.0))]), ratio, CHANCE).first == 1.5
    )


def test_one_prompt_has_no_interval_and_none_has_no_value() -> None:
    alone = estimate(table([("a", (1.0, 2.0))]), ratio, CHANCE)
    assert (alone.value, alone.low, alone.high) == (0.5, None, None)
    assert estimate(table([]), ratio, CHANCE).value is None
    assert contrast(table([]), table([]), ratio, CHANCE).p_value is None


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    given_table = drawn_table(1, 12)
    one, again = (estimate(given_table, ratio, CHANCE.of("x")) for _ in range(2))
    assert one == again
    assert estimate(given_table, ratio, Chance(0.95, 1000, 1).of("x")) != one
    assert estimate(given_table, ratio, CHANCE.of("y")) != one


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=2, max_size=12))
def test_exchanging_the_sides_mirrors_what_is_said(values: list[tuple[float, float]]) -> None:
    ones = table([(f"p{n}", (one, 1.0)) for n, (one, _) in enumerate(values)])
    others = table([(f"p{n}", (other, 1.0)) for n, (_, other) in enumerate(values)])
    chance = Chance(0.9, 200, 0)
    there, back = contrast(ones, others, ratio, chance), contrast(others, ones, ratio, chance)
    assert there.difference.value == pytest.approx(-(back.difference.value or 0.0), abs=1e-9)
    assert there.difference.low == pytest.approx(-(back.difference.high or 0.0), abs=1e-9)
    assert there.effect.value is None or there.effect.value == pytest.approx(-(back.effect.value or 0.0))
    assert there.effect.low is None or there.effect.low == pytest.approx(-(back.effect.high or 0.0))


def test_dealt_marks_find_what_goes_with_them_and_nothing_else() -> None:
    draws = np.random.default_rng(0)
    marks = [bool(each) for each in draws.integers(0, 2, 60)]
    bound = [(f"p{n}", float(mark), mark) for n, mark in enumerate(marks)]
    free = [(f"p{n}", float(draws.integers(0, 2)), mark) for n, mark in enumerate(marks)]
    assert permuted_effect(bound, CHANCE).p_value == pytest.approx(1 / 1001)
    assert (permuted_effect(free, CHANCE).p_value or 0) > 0.05
    assert permuted_effect([("p", 1.0, True)], CHANCE).p_value is None


def test_marks_that_belong_to_a_prompt_are_no_more_witnesses_than_prompts() -> None:
    """Six answers each to twelve prompts; value and mark go with the prompt, and not with each other."""
    draws, alarms = np.random.default_rng(7), 0
    for _ in range(200):
        values, marks = draws.integers(0, 2, 12), draws.random(12) < 0.5
        rows = [(f"p{n}", float(values[n]), bool(marks[n] ^ (k == 5))) for n in range(12) for k in range(6)]
        alarms += (permuted_effect(rows, Chance(0.95, 200, 0)).p_value or 0.0) <= 0.05
    assert alarms <= MOST_ALARMS


def test_holm_by_hand() -> None:
    told = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": None})
    assert told == {"a": pytest.approx(0.03), "c": pytest.approx(0.06), "b": pytest.approx(0.06), "d": None}


def test_kappa_by_hand() -> None:
    # both say win half of the time; they agree on 3 of 4, by chance on half of them
    assert kappa([("win", "win"), ("win", "loss"), ("loss", "loss"), ("loss", "loss")]) == pytest.approx(0.5)
    # one says win of three in four, the other of two: they agree on 3 of 4, by chance on 3/4 * 1/2 + 1/4 * 1/2
    assert kappa([("win", "win"), ("win", "win"), ("win", "loss"), ("loss", "loss")]) == pytest.approx(0.5)
    assert kappa([("win", "win")] * 3) is None
    assert kappa([("win", "loss"), ("loss", "win")]) == pytest.approx(-1.0)
    assert kappa([]) is None
