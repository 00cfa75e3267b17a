"""From rows to figures: what each is made of, its interval, and how two candidates differ by it. It asks nobody."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from brie_trainer.evaluation import measures, overlap
from brie_trainer.evaluation.report import Counts, Difference, Figure
from brie_trainer.evaluation.rows import Key, Row
from brie_trainer.evaluation.statistics import Chance, Form, Table, contrast, estimate, exponential, holm, ratio, table
from brie_trainer.evaluation.wording import difference_sentence

Better = Literal["lower", "higher"] | None
Summands = Mapping[str, Sequence[float] | None]
"""Of one item, by figure; None where it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How a figure is made."""

    unit: str
    better: Better
    form: Form = ratio
    each: Form = ratio
    """Of one prompt, for the size of an effect."""
    tested_as: str | None = None
    """Another figure that says the same: its test is this one's."""
    without: str = "nothing was measured"
    """Why there may be none."""


_NO_REFERENCE = "no prompt has a reference"
HELD_OUT: Mapping[str, Kind] = {
    "loss": Kind(unit="nats per token", better="lower"),
    "perplexity": Kind(unit="", better="lower", form=exponential, tested_as="loss"),
    "token_accuracy": Kind(unit="of tokens", better="higher"),
    "bits_per_byte": Kind(unit="bits per byte", better="lower", tested_as="loss"),
}
ANSWERS: Mapping[str, Kind] = {
    "bleu": Kind(unit="of 100", better="higher", form=overlap.bleu, each=overlap.bleu, without=_NO_REFERENCE),
    "chrf": Kind(unit="of 100", better="higher", without=_NO_REFERENCE),
    "rouge_l": Kind(unit="of 1", better="higher", without=_NO_REFERENCE),
    "words": Kind(unit="words", better=None),
    "distinct_1": Kind(unit="of words", better=None),
    "distinct_2": Kind(unit="of pairs of words", better=None),
    "mtld": Kind(unit="words", better=None, without=f"no answer has {measures.MTLD_LEAST_WORDS} words"),
    "repetition": Kind(unit="of sequences of four words", better="lower"),
    "stop_rate": Kind(unit="of answers", better="higher"),
}


@dataclass(frozen=True, slots=True)
class Item:
    """What one row adds to each figure."""

    key: tuple[str, int]
    """Prompt and sample: what is paired."""
    cluster: str
    theme: str
    summands: Summands


def loss_summands(data: Mapping[str, Any]) -> Summands:
    """Of one held-out example."""
    nll, tokens, num_bytes = data["nll"], data["tokens"], data["bytes"]
    per_byte = (nll / math.log(2), num_bytes) if num_bytes else None
    scored = (nll, tokens)
    return {
        "loss": scored,
        "perplexity": scored,
        "token_accuracy": (data["correct"], tokens),
        "bits_per_byte": per_byte,
    }


def answer_summands(text: str, finish: str, reference: str | None) -> Summands:
    """Of one answer."""
    words = measures.words_of(text)
    single = {
        "chrf": None if reference is None else overlap.chrf(text, reference),
        "rouge_l": None if reference is None else measures.rouge_l(text, reference),
        "words": float(len(words)),
        "distinct_1": measures.distinct(words, 1),
        "distinct_2": measures.distinct(words, 2),
        "mtld": measures.mtld(words),
        "repetition": measures.repetition(words),
        "stop_rate": float(finish != "length"),
    }
    means: dict[str, Sequence[float] | None] = {
        name: None if value is None else (value, 1.0) for name, value in single.items()
    }
    return {"bleu": None if reference is None else overlap.bleu_summands(text, reference), **means}


def figures_of(items: Sequence[Item], kinds: Mapping[str, Kind], chance: Chance, where: str) -> dict[str, Figure]:
    """Every figure of one candidate."""
    return {name: figure(_table(items, name), kind, chance.of(f"{where} {name}")) for name, kind in kinds.items()}


def figure(given: Table, kind: Kind, chance: Chance) -> Figure:
    """One number with its interval."""
    found = estimate(given, kind.form, chance)
    return Figure(
        value=found.value,
        low=found.low,
        high=found.high,
        items=given.items,
        clusters=len(given.clusters),
        unit=kind.unit,
        better=kind.better,
        note=kind.without if found.value is None else None,
    )


def differences(
    ones: Sequence[Item], others: Sequence[Item], kinds: Mapping[str, Kind], chance: Chance, against: str
) -> dict[str, Difference]:
    """Every figure of a family, over the items that both sides have; Holm's adjustment is over the family."""
    found = {name: _contrast(ones, others, name, kind, chance) for name, kind in kinds.items()}
    return adjusted(found, kinds, chance, against)


def adjusted(
    found: Mapping[str, Difference], kinds: Mapping[str, Kind], chance: Chance, against: str
) -> dict[str, Difference]:
    """With adjusted p-values, verdicts and sentences; a figure that says the same as another is no test of its own."""
    own = {name: told.p_value for name, told in found.items() if _tested(name, found, kinds) == name}
    p_values = holm(own)
    whole = {}
    for name, told in found.items():
        p = p_values[_tested(name, found, kinds)] if told.difference is not None else None
        known = told.model_copy(
            update={"p_adjusted": p, "more_than_noise": None if p is None else p <= 1 - chance.confidence + 1e-12}
        )
        sentence = difference_sentence(known, kinds[name].better, against, chance.confidence)
        whole[name] = known.model_copy(update={"sentence": sentence})
    return whole


def difference_of(name: str, ones: Table, others: Table, kind: Kind, chance: Chance) -> Difference:
    """Not adjusted yet."""
    found = contrast(ones, others, kind.form, chance.of(f"difference {kind.tested_as or name}"), kind.each)
    return Difference(
        figure=name,
        candidate=found.first,
        against=found.second,
        difference=found.difference.value,
        low=found.difference.low,
        high=found.difference.high,
        effect_size=found.effect.value,
        effect_low=found.effect.low,
        effect_high=found.effect.high,
        p_value=found.p_value,
        p_adjusted=None,
        clusters=found.clusters,
        more_than_noise=None,
        sentence="",
    )


def counts_of(planned: Iterable[Key], rows: Mapping[Key, Row]) -> Counts:
    """What became of these questions."""
    keys = list(planned)
    known = [rows[key] for key in keys if key in rows]
    reasons: dict[str, int] = {}
    for row in known:
        if row.outcome != "answered":
            reasons[row.reason or "unknown"] = reasons.get(row.reason or "unknown", 0) + 1
    return Counts(
        planned=len(keys),
        answered=sum(row.outcome == "answered" and row.tries > 0 for row in known),
        refused=sum(row.outcome == "refused" for row in known),
        failed=sum(row.outcome == "failed" for row in known),
        not_asked=len(keys) - len(known),
        retries=sum(max(row.tries - 1, 0) for row in known),
        reasons=dict(sorted(reasons.items())),
    )


def _contrast(ones: Sequence[Item], others: Sequence[Item], name: str, kind: Kind, chance: Chance) -> Difference:
    shared = {item.key for item in ones if item.summands.get(name) is not None}
    shared &= {item.key for item in others if item.summands.get(name) is not None}
    first, second = ([item for item in side if item.key in shared] for side in (ones, others))
    return difference_of(name, _table(first, name), _table(second, name), kind, chance)


def _tested(name: str, found: Mapping[str, Difference], kinds: Mapping[str, Kind]) -> str:
    other = kinds[name].tested_as
    return other if other is not None and other in found and found[other].p_value is not None else name


def _table(items: Sequence[Item], name: str) -> Table:
    return table([(item.cluster, summands) for item in items if (summands := item.summands.get(name)) is not None])
