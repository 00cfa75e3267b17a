"""Figures in plain sentences: what is more than noise, and what is not. It knows numbers, not where they are from."""

import math
from collections.abc import Mapping, Sequence

from brie_trainer.evaluation.report import Agreement, Bias, Counts, Difference

TITLES: Mapping[str, str] = {
    "loss": "Loss",
    "perplexity": "Perplexity",
    "token_accuracy": "Token accuracy",
    "bits_per_byte": "Bits per byte",
    "bleu": "BLEU",
    "chrf": "chrF",
    "rouge_l": "ROUGE-L",
    "words": "Length in words",
    "distinct_1": "Distinct words (distinct-1)",
    "distinct_2": "Distinct pairs of words (distinct-2)",
    "mtld": "Lexical diversity (MTLD)",
    "repetition": "Repetition",
    "stop_rate": "Stop rate",
    "win_rate": "Win rate",
}


def title(figure: str) -> str:
    """A figure's name for readers; a criterion is its own."""
    return TITLES.get(figure, figure.capitalize())


def number(value: float | None) -> str:
    """Four significant digits, or all before the point."""
    if value is None:
        return "not measured"
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e12 else f"{value:.4g}"


def percent(confidence: float) -> str:
    """0.95 as "95 %"."""
    return f"{confidence * 100:g} %"


def difference_sentence(told: Difference, better: str | None, against: str, confidence: float) -> str:
    """Both values, the interval, and whether it is more than noise."""
    if told.difference is None and told.figure == "win_rate":
        return "No verdict was reached, so that there is no win rate."
    if told.difference is None:
        return f"{title(told.figure)} cannot be compared: no prompt has it on both sides."
    how = "higher" if told.difference > 0 else "lower" if told.difference < 0 else "different"
    by = "no" if told.difference == 0 else number(abs(told.difference))
    values = f"{title(told.figure)} is {number(told.candidate)}, and {number(told.against)} for {against}: {by} {how}"
    if told.low is None or told.high is None:
        return f"{values}; from one prompt no interval can be made, so this is no more than an anecdote."
    interval = f"{percent(confidence)} interval of the difference {number(told.low)} to {number(told.high)}"
    test = f"p = {told.p_adjusted:.2g} after adjustment" if told.p_adjusted is not None else "no test"
    if (fewest := _fewest(confidence)) > told.clusters:
        few = f"{told.clusters} prompts are too few to tell anything from noise, {fewest} are the fewest that can"
        return f"{values} ({interval}; {test}): {few}."
    return f"{values} ({interval}; {test}; {told.clusters} prompts): {_judged(told, better)}."


def comparison_sentence(candidate: str, against: str, told: Sequence[tuple[Difference, str | None]], p: str) -> str:
    """All differences of a comparison in one sentence."""
    real = [(each, better) for each, better in told if each.more_than_noise]
    measured = [each for each, _ in told if each.more_than_noise is not None]
    if not measured:
        return f"Nothing of {candidate} and {against} could be compared."
    if not real:
        return f"No measured difference between {candidate} and {against} is more than noise (at {p} confidence)."
    groups: dict[str, list[str]] = {"better": [], "worse": [], "different": []}
    for each, better in real:
        groups[_direction(each, better)].append(_within(title(each.figure)))
    parts = [f"{word} by {', '.join(names)}" for word, names in groups.items() if names]
    rest = len(measured) - len(real)
    others = "the other measured difference is" if rest == 1 else f"the other {rest} measured differences are"
    behind = f"; {others} no more than noise" if rest else ""
    return f"Compared with {against}, {candidate} is {'; '.join(parts)}{behind} (at {p} confidence)."


def bias_sentence(bias: Bias, judge: str) -> str:
    """What a judge leans to, named or cleared."""
    leanings = {
        "position": ("the answer that is shown first", "the answer that is shown second"),
        "label": ("the answer that is called A", "the answer that is called B"),
        "length": ("the longer answer", "the shorter answer"),
    }[bias.kind]
    if bias.found is None:
        return f"Whether {judge} has a {bias.kind} bias cannot be told from these verdicts."
    rate = f"it chose {leanings[0]} in {percent(round(bias.rate or 0.0, 3))} of {bias.verdicts} decided verdicts"
    if not bias.found:
        return f"{judge} shows no {bias.kind} bias that is more than noise: {rate}."
    leaning = leanings[0] if (bias.effect or 0.0) > 0 else leanings[1]
    if bias.kind == "length":
        return f"{judge} has a length bias, or length goes with quality here: it favours {leaning}; {rate}."
    return f"{judge} has a {bias.kind} bias: it favours {leaning}; {rate}."


def agreement_sentence(told: Agreement) -> str:
    """How far two judges agree, and how far beyond chance."""
    one, other = told.judges
    if told.agreement is None:
        return f"{one} and {other} gave no verdict on the same pair."
    agreed = f"{one} and {other} agree on {percent(round(told.agreement, 3))} of {told.verdicts} verdicts"
    if told.kappa is None:
        return f"{agreed}, as they would by chance: each of them always says the same."
    return f"{agreed}; Cohen's kappa is {number(told.kappa)}."


def counts_sentence(what: str, counts: Counts | None) -> str:
    """What became of questions, and why some have no answer; nothing if nothing was to be asked."""
    if counts is None or not counts.planned:
        return ""
    others = {"refused": counts.refused, "failed": counts.failed, "not asked": counts.not_asked}
    told = "".join(f", {count} {name}" for name, count in {**others, "retries": counts.retries}.items() if count)
    reasons = "".join(f" ({reason}: {count})" for reason, count in counts.reasons.items())
    return f"{counts.answered} of {counts.planned} {what}{told}{reasons}"


def _fewest(confidence: float) -> int:
    """Prompts of which the most extreme two of all exchanges are rarer than chance is allowed to be."""
    return math.ceil(math.log2(2 / (1 - confidence)) - 1e-9)


def _within(name: str) -> str:
    """A title in the midst of a sentence; abbreviations stay as they are."""
    return name if name.isupper() or name[1:2].isupper() or name == "chrF" else name[:1].lower() + name[1:]


def _judged(told: Difference, better: str | None) -> str:
    if not told.more_than_noise:
        return "no more than noise"
    direction = _direction(told, better)
    return "more than noise" + ("" if direction == "different" else f", and {direction}")


def _direction(told: Difference, better: str | None) -> str:
    if better is None or not told.difference:
        return "different"
    return "better" if (told.difference > 0) == (better == "higher") else "worse"
