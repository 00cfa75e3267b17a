"""What is said of figures: that few prompts tell nothing, which way a difference goes, and what became of questions."""

import pytest

from brie_trainer.evaluation.report import Agreement, Counts, Difference
from brie_trainer.evaluation.wording import (
    agreement_sentence,
    comparison_sentence,
    counts_sentence,
    difference_sentence,
    number,
)

PLAIN = {"candidate": 8.0, "against": 20.0, "difference": -12.0, "low": -13.0, "high": -11.0, "effect_size": None}


def difference(**changes: object) -> Difference:
    told = {"figure": "perplexity", **PLAIN, "p_value": 0.01, "p_adjusted": 0.02, "clusters": 40, "sentence": ""}
    return Difference.model_validate(told | {"more_than_noise": True} | changes)


def test_a_difference_says_both_values_the_interval_the_test_and_which_way() -> None:
    assert difference_sentence(difference(), "lower", "base", 0.95) == (
        "Perplexity is 8, and 20 for base: 12 lower (95 % interval of the difference -13 to -11; p = 0.02 after "
        "adjustment; 40 prompts): more than noise, and better."
    )
    assert difference_sentence(difference(), "higher", "base", 0.95).endswith("more than noise, and worse.")
    assert difference_sentence(difference(), None, "base", 0.95).endswith(": more than noise.")
    noise = difference_sentence(difference(more_than_noise=False), "lower", "base", 0.95)
    assert noise.endswith(": no more than noise.")


@pytest.mark.parametrize(("confidence", "fewest"), [(0.95, 6), (0.9, 5), (0.99, 8), (0.5, 2)])
def test_too_few_prompts_are_said_to_be_too_few(confidence: float, fewest: int) -> None:
    """Of n prompts the two most extreme exchanges make 2 in 2^n."""
    assert 2 / 2**fewest <= 1 - confidence + 1e-12 < 2 / 2 ** (fewest - 1)
    few, enough = (
        difference_sentence(difference(more_than_noise=False, clusters=number), "lower", "base", confidence)
        for number in (fewest - 1, fewest)
    )
    assert f"{fewest - 1} prompts are too few to tell anything from noise, {fewest} are the fewest that can." in few
    assert enough.endswith("no more than noise.")


def test_a_comparison_counts_what_is_noise_and_names_the_rest() -> None:
    told = [(difference(), "lower"), (difference(figure="words"), None), (difference(figure="bleu"), "higher")]
    noise = difference(figure="mtld", more_than_noise=False)
    missing = difference(figure="chrf", more_than_noise=None)
    said = comparison_sentence("one", "base", [*told, (noise, None), (missing, "higher")], "95 %")
    assert said == (
        "Compared with base, one is better by perplexity; worse by BLEU; different by length in words; "
        "the other measured difference is no more than noise (at 95 % confidence)."
    )
    assert comparison_sentence("one", "base", [(noise, None)], "95 %").startswith("No measured difference")
    assert comparison_sentence("one", "base", [(missing, None)], "95 %").startswith("Nothing of one and base")


def test_large_numbers_are_written_out_and_no_verdict_is_said_to_be_none() -> None:
    assert [number(each) for each in (48864.3, 9999.4, 0.00123456, -48864.3, None)] == [
        *("48864", "9999", "0.001235", "-48864", "not measured")
    ]
    none = difference(figure="win_rate", candidate=None, against=None, difference=None)
    assert difference_sentence(none, "higher", "base", 0.95) == "No verdict was reached, so that there is no win rate."


def test_how_far_judges_agree() -> None:
    told = Agreement(judges=("a", "b"), verdicts=8, agreement=0.75, kappa=0.5)
    assert agreement_sentence(told) == "a and b agree on 75 % of 8 verdicts; Cohen's kappa is 0.5."
    always = agreement_sentence(told.model_copy(update={"agreement": 1.0, "kappa": None}))
    assert always == "a and b agree on 100 % of 8 verdicts, as they would by chance: each of them always says the same."
    never = agreement_sentence(told.model_copy(update={"verdicts": 0, "agreement": None, "kappa": None}))
    assert never == "a and b gave no verdict on the same pair."


def test_what_became_of_questions() -> None:
    counts = Counts(planned=9, answered=5, refused=2, failed=1, not_asked=1, retries=3, reasons={"status 400: no": 3})
    told = "5 of 9 answers, 2 refused, 1 failed, 1 not asked, 3 retries (status 400: no: 3)"
    assert counts_sentence("answers", counts) == told
    assert (
        counts_sentence("answers", None) == counts_sentence("answers", counts.model_copy(update={"planned": 0})) == ""
    )
