"""Judges with known biases, and corrupted verdicts: the report names what is so, and nothing else."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brie_trainer.evaluation.contract import CRITERIA
from brie_trainer.evaluation.judging import Judged, agreements, judge_report, win_rates
from brie_trainer.evaluation.report import Bias, Counts, Identity, JudgeReport
from brie_trainer.evaluation.statistics import Chance
from brie_trainer.evaluation.verdicts import Showing, Verdict, showing

CHANCE = Chance(0.95, 500, 0)
MOST_ALARMS = 18
"""Of 200 at a rate of 5 %: more come once in a hundred times (binomial)."""
Judge = Callable[[Showing, bool, bool, random.Random], str]
"""From how a pair is shown, whether the candidate's answer is better and longer, and luck, to a label."""


def other(label: str) -> str:
    return {"A": "B", "B": "A", "tie": "tie"}[label]


def always_a(shown: Showing, better: bool, longer: bool, luck: random.Random) -> str:
    return "A"


def always_first(shown: Showing, better: bool, longer: bool, luck: random.Random) -> str:
    return shown.labels[0]


def longer_wins(shown: Showing, better: bool, longer: bool, luck: random.Random) -> str:
    return shown.candidate_label if longer else other(shown.candidate_label)


def chance_wins(shown: Showing, better: bool, longer: bool, luck: random.Random) -> str:
    return luck.choice(["A", "B"])


def perfect(shown: Showing, better: bool, longer: bool, luck: random.Random) -> str:
    return shown.candidate_label if better else other(shown.candidate_label)


def judged_by(
    judge: Judge, seed: int = 0, *, name: str = "judge", prompts: int = 60, rate: float = 0.5
) -> list[Judged]:
    """Two samples of each prompt, each in both orders; the candidate's answer is better in `rate` of them."""
    luck, made = random.Random(seed), []
    for n in range(2 * prompts):
        item, sample = f"p{n // 2}", n % 2
        better, longer = luck.random() < rate, luck.random() < 0.5
        for order in (0, 1):
            shown = showing(seed, ("one", "two", item, str(sample)), order)
            choice = judge(shown, better, longer, luck)
            verdict = Verdict(choice, dict.fromkeys(CRITERIA, choice))
            parts = {"judge": name, "cluster": item, "item": item, "sample": sample, "order": order}
            made.append(Judged(**parts, longer=longer, shown=shown, verdict=verdict))  # type: ignore[arg-type]
    return made


def told(judged: Sequence[Judged]) -> JudgeReport:
    counts = Counts(planned=len(judged), answered=len(judged), refused=0, failed=0, not_asked=0, retries=0)
    identity = Identity(model="m", served_as=[], version=None, fingerprints=[])
    return judge_report(judged, "judge", identity, counts, CHANCE)


def biases(judged: Sequence[Judged]) -> dict[str, Bias]:
    return {bias.kind: bias for bias in told(judged).biases}


def found(judged: Sequence[Judged]) -> set[str]:
    return {kind for kind, bias in biases(judged).items() if bias.found}


def test_a_judge_that_always_says_a_is_named_and_changes_no_win_rate() -> None:
    judged = judged_by(always_a)
    assert found(judged) == {"label"}
    assert (biases(judged)["label"].rate, biases(judged)["label"].effect) == (1.0, 0.5)
    assert biases(judged)["label"].p_adjusted == pytest.approx(3 * (biases(judged)["label"].p_value or 0.0))
    assert told(judged).win_rate.value == 0.5
    assert told(judged).consistency == 0.0
    assert win_rates(judged, CHANCE, "two")[0].more_than_noise is False
    assert "called A" in biases(judged)["label"].sentence


def test_a_judge_that_always_takes_the_first_is_named_and_changes_no_win_rate() -> None:
    judged = judged_by(always_first)
    assert found(judged) == {"position"}
    assert biases(judged)["position"].rate == 1.0
    assert "shown first in 100 % of" in biases(judged)["position"].sentence
    assert told(judged).win_rate.value == 0.5
    assert win_rates(judged, CHANCE, "two")[0].more_than_noise is False


def test_a_judge_of_length_is_named() -> None:
    judged = judged_by(longer_wins)
    assert found(judged) == {"length"}
    assert (biases(judged)["length"].rate, biases(judged)["length"].effect) == (1.0, 1.0)
    assert told(judged).win_rate_at_equal_length == 0.5
    assert told(judged).consistency == 1.0


def test_a_judge_of_length_makes_no_winner_at_equal_length() -> None:
    """A candidate that talks more wins with such a judge; the rate at equal length says why."""
    judged = [each for n, each in enumerate(judged_by(longer_wins)) if each.longer or n % 8 < 2]
    report = told(judged)
    assert report.win_rate.value is not None
    assert report.win_rate.value > 0.6
    assert report.win_rate_at_equal_length == 0.5
    assert "length" in found(judged)


def test_a_judge_that_guesses_has_no_bias_and_finds_no_winner() -> None:
    judged = judged_by(chance_wins, seed=3)
    assert found(judged) == set()
    overall, criteria = win_rates(judged, CHANCE, "two")
    assert overall.more_than_noise is False
    assert "no more than noise" in overall.sentence
    assert not any(each.more_than_noise for each in criteria.values())


@pytest.mark.parametrize(("rate", "word"), [(0.8, "better"), (0.2, "worse")])
def test_a_perfect_judge_finds_the_truth_and_has_no_bias(rate: float, word: str) -> None:
    judged = judged_by(perfect, seed=1, rate=rate)
    assert found(judged) == set()
    overall, _ = win_rates(judged, CHANCE, "two")
    assert overall.more_than_noise is True
    assert overall.sentence.endswith(f"more than noise, and {word}.")
    assert overall.candidate == pytest.approx(rate, abs=0.1)


@pytest.mark.parametrize("judge", [chance_wins, perfect, always_a])
def test_a_model_against_itself_is_noise_at_the_stated_rate(judge: Judge) -> None:
    """Two samples of one model: which is better and which is longer is chance, whoever judges."""
    chance = Chance(0.95, 200, 0)
    runs = [win_rates(judged_by(judge, seed, prompts=20), chance, "itself")[0] for seed in range(200)]
    assert sum(bool(run.more_than_noise) for run in runs) <= MOST_ALARMS


def test_guesses_are_called_biased_at_the_stated_rate() -> None:
    chance = Chance(0.95, 200, 0)
    alarms = 0
    for seed in range(200):
        judged = judged_by(chance_wins, seed, prompts=20)
        counts = Counts(planned=0, answered=0, refused=0, failed=0, not_asked=0, retries=0)
        identity = Identity(model="m", served_as=[], version=None, fingerprints=[])
        alarms += any(bias.found for bias in judge_report(judged, "judge", identity, counts, chance).biases)
    assert alarms <= MOST_ALARMS


def verdicts(choices: Sequence[str | None], seed: int = 0) -> list[Judged]:
    """One pair a prompt with these labels, None being unparseable."""
    made = []
    for n, choice in enumerate(choices):
        shown = showing(seed, ("one", "two", f"p{n // 2}", "0"), n % 2)
        verdict = None if choice is None else Verdict(choice, dict.fromkeys(CRITERIA, choice))
        longer = None if n // 2 % 5 == 0 else n // 2 % 3 == 0
        made.append(
            Judged(
                judge="judge", cluster=f"p{n // 2}", item=f"p{n // 2}", sample=0, order=n % 2, longer=longer,
                shown=shown, verdict=verdict,
            )
        )  # fmt: skip
    return made


def inverted(judged: Sequence[Judged]) -> list[Judged]:
    """Every A is a B, and every B an A."""
    return [
        each
        if each.verdict is None
        else replace(
            each,
            verdict=Verdict(
                other(each.verdict.overall), {name: other(choice) for name, choice in each.verdict.criteria.items()}
            ),
        )
        for each in judged
    ]


CHOICES = st.lists(st.sampled_from(["A", "B", "tie", None]), min_size=4, max_size=24)
QUICK = Chance(0.95, 100, 0)


@settings(max_examples=15, deadline=None)
@given(CHOICES)
def test_inverted_verdicts_mirror_the_win_rate(choices: list[str | None]) -> None:
    judged = verdicts(choices)
    there, back = (win_rates(each, QUICK, "two") for each in (judged, inverted(judged)))
    for one, other_one in [(there[0], back[0]), *zip(there[1].values(), back[1].values(), strict=True)]:
        if one.difference is None:
            assert other_one.difference is None
            continue
        assert one.difference == pytest.approx(-(other_one.difference or 0.0), abs=1e-12)
        assert one.candidate == pytest.approx(other_one.against, abs=1e-12)
        assert one.p_value == other_one.p_value


@settings(max_examples=15, deadline=None)
@given(CHOICES, st.randoms(use_true_random=False))
def test_the_order_of_rows_says_nothing(choices: list[str | None], luck: random.Random) -> None:
    judged = verdicts(choices)
    shuffled = list(judged)
    luck.shuffle(shuffled)
    assert win_rates(judged, QUICK, "two") == win_rates(shuffled, QUICK, "two")
    assert told(judged) == told(shuffled)


def test_the_order_of_rows_says_nothing_of_several_answers_to_a_prompt() -> None:
    judged = judged_by(chance_wins, prompts=12)
    shuffled = list(judged)
    random.Random(1).shuffle(shuffled)
    assert told(judged) == told(shuffled)


def test_an_unparseable_verdict_agrees_with_nothing() -> None:
    assert told(verdicts([None, None, None, "A"])).consistency is None
    assert told(verdicts([None, None, "tie", "tie"])).consistency == 1.0
    assert told(verdicts(["A", "A", "tie", "tie"])).consistency == 0.5


def test_each_criterion_is_judged_by_itself() -> None:
    judged = [
        replace(
            each, verdict=Verdict(each.verdict.overall, {**each.verdict.criteria, "depth": other(each.verdict.overall)})
        )
        for each in judged_by(perfect, seed=1, rate=0.8)
        if each.verdict is not None
    ]
    overall, criteria = win_rates(judged, CHANCE, "two")
    assert criteria["clarity"].candidate == overall.candidate
    assert criteria["depth"].candidate == pytest.approx(1.0 - (overall.candidate or 0.0))
    assert told(judged).criteria["depth"].value == criteria["depth"].candidate
    assert "worse" in criteria["depth"].sentence


@settings(max_examples=15, deadline=None)
@given(CHOICES, st.sets(st.integers(0, 23)))
def test_corrupted_verdicts_are_unparseable_and_count_for_nobody(choices: list[str | None], broken: set[int]) -> None:
    judged = verdicts(choices)
    corrupted = [replace(each, verdict=None) if n in broken else each for n, each in enumerate(judged)]
    kept = [each for each in corrupted if each.verdict is not None]
    report = told(corrupted)
    assert report.unparseable == len(corrupted) - len(kept)
    assert report.wins + report.losses + report.ties + report.unparseable == len(corrupted)
    assert win_rates(corrupted, QUICK, "two") == win_rates(kept, QUICK, "two")


@settings(max_examples=15, deadline=None)
@given(CHOICES)
def test_relabelling_what_was_shown_changes_no_win_rate(choices: list[str | None]) -> None:
    """Had each pair been shown under exchanged names, and the judge meant the same answers."""
    judged = verdicts(choices)
    renamed = [
        replace(each, shown=Showing(each.shown.first, (each.shown.labels[1], each.shown.labels[0])))
        for each in inverted(judged)
        if each.shown is not None
    ]
    assert win_rates(judged, QUICK, "two") == win_rates(renamed, QUICK, "two")


def test_answers_that_are_the_same_are_ties_and_tell_nothing_of_the_judge() -> None:
    judged = [replace(each, shown=None, verdict=None) for each in verdicts(["A"] * 8)]
    report = told(judged)
    assert (report.identical, report.unparseable, report.ties) == (8, 0, 0)
    assert report.win_rate.value == 0.5
    assert all(bias.found is None for bias in report.biases)


def test_two_judges_who_are_right_agree_and_two_who_guess_do_not() -> None:
    right = judged_by(perfect, name="one") + judged_by(perfect, name="two")
    (agreement,) = agreements(right)
    assert (agreement.kappa, agreement.agreement, agreement.verdicts) == (1.0, 1.0, 240)
    guessing = judged_by(chance_wins, 1, name="one") + judged_by(chance_wins, 2, name="two")
    assert abs(agreements(guessing)[0].kappa or 0.0) < 0.2
