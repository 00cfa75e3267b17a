"""From verdicts to what they say of two candidates, and of the judges. Pure; it knows no server and no row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from brie_trainer.evaluation.contract import CRITERIA
from brie_trainer.evaluation.figures import Kind, adjusted, difference_of, figure
from brie_trainer.evaluation.report import Agreement, Bias, Counts, Difference, Figure, Identity, JudgeReport
from brie_trainer.evaluation.statistics import (
    Chance,
    Table,
    contrast,
    estimate,
    holm,
    kappa,
    permuted_effect,
    ratio,
    table,
)
from brie_trainer.evaluation.verdicts import TIE, Result, Showing, Verdict, result_of, score_of
from brie_trainer.evaluation.wording import agreement_sentence, bias_sentence

WIN_RATE = Kind(unit="of verdicts", better="higher", without="no verdict was reached")
_CRITERIA: Mapping[str, Kind] = dict.fromkeys(CRITERIA, WIN_RATE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One call of a judge: one pair in one order."""

    judge: str
    cluster: str
    item: str
    sample: int
    order: int
    longer: bool | None
    """Whether the candidate's answer has more words; None if both have as many."""
    shown: Showing | None
    """None for two answers that are the same to the letter, of which nobody was asked: a tie."""
    verdict: Verdict | None
    """None if what the judge said is no verdict."""

    @property
    def pair(self) -> tuple[str, int]:
        """What both orders have in common."""
        return self.item, self.sample

    def result(self, of: str = "overall") -> Result | None:
        """win, loss or tie of the candidate; None if unparseable."""
        if self.shown is None:
            return "tie"
        if self.verdict is None:
            return None
        return result_of(self.verdict.choice(of), self.shown)


def win_rates(judged: Sequence[Judged], chance: Chance, against: str) -> tuple[Difference, dict[str, Difference]]:
    """Overall, and by criterion with Holm's adjustment over the five."""
    overall = {"win_rate": _compared(judged, "overall", "win_rate", chance)}
    criteria = {name: _compared(judged, name, name, chance) for name in CRITERIA}
    one = adjusted(overall, {"win_rate": WIN_RATE}, chance, against)["win_rate"]
    return one, adjusted(criteria, _CRITERIA, chance, against)


def judge_report(
    judged: Sequence[Judged], name: str, identity: Identity, counts: Counts, chance: Chance
) -> JudgeReport:
    """What one judge said, and what it leans to."""
    asked = [each for each in judged if each.shown is not None]
    results = [each.result() for each in asked]
    return JudgeReport(
        identity=identity,
        counts=counts,
        unparseable=results.count(None),
        wins=results.count("win"),
        losses=results.count("loss"),
        ties=results.count("tie"),
        identical=len(judged) - len(asked),
        win_rate=win_rate(judged, "overall", chance.of(f"{name} win_rate")),
        win_rate_at_equal_length=_at_equal_length(judged, chance),
        criteria={each: win_rate(judged, each, chance.of(f"{name} {each}")) for each in CRITERIA},
        consistency=_consistency(asked),
        biases=biases(asked, name, chance),
    )


def win_rate(judged: Sequence[Judged], of: str, chance: Chance) -> Figure:
    """The candidate's, a tie half a win."""
    return figure(_scores(judged, of)[0], WIN_RATE, chance)


def agreements(judged: Sequence[Judged]) -> list[Agreement]:
    """Every two judges, on the calls of which both gave a verdict."""
    by_judge: dict[str, dict[tuple[str, int, int], str]] = {}
    for each in judged:
        said = by_judge.setdefault(each.judge, {})
        if each.shown is not None and (result := each.result()) is not None:
            said[each.item, each.sample, each.order] = result
    made = []
    for one, other in combinations(sorted(by_judge), 2):
        both = sorted(by_judge[one].keys() & by_judge[other].keys())
        pairs = [(by_judge[one][call], by_judge[other][call]) for call in both]
        agreed = sum(first == second for first, second in pairs) / len(pairs) if pairs else None
        told = Agreement(judges=(one, other), verdicts=len(pairs), agreement=agreed, kappa=kappa(pairs))
        made.append(told.model_copy(update={"sentence": agreement_sentence(told)}))
    return made


def biases(asked: Sequence[Judged], judge: str, chance: Chance) -> list[Bias]:
    """Position, label and length, with Holm's adjustment over the three."""
    found = {
        "position": _leaning(asked, "position", lambda choice, shown: choice == shown.labels[0], chance),
        "label": _leaning(asked, "label", lambda choice, _: choice == "A", chance),
        "length": _length(asked, chance),
    }
    p_values = holm({kind: bias.p_value for kind, bias in found.items()})
    told = []
    for kind, bias in found.items():
        p = p_values[kind]
        known = bias.model_copy(
            update={"p_adjusted": p, "found": None if p is None else p <= 1 - chance.confidence + 1e-12}
        )
        told.append(known.model_copy(update={"sentence": bias_sentence(known, judge)}))
    return told


def _compared(judged: Sequence[Judged], of: str, name: str, chance: Chance) -> Difference:
    ones, others = _scores(judged, of)
    return difference_of(name, ones, others, WIN_RATE, chance)


def _scores(judged: Sequence[Judged], of: str) -> tuple[Table, Table]:
    """The candidate's and the other's, by prompt."""
    known = [(each.cluster, score_of(result)) for each in judged if (result := each.result(of)) is not None]
    ones = table([(cluster, (score, 1.0)) for cluster, score in known])
    return ones, table([(cluster, (1.0 - score, 1.0)) for cluster, score in known])


def _consistency(asked: Sequence[Judged]) -> float | None:
    pairs: dict[tuple[str, int], list[Result | None]] = {}
    for each in asked:
        pairs.setdefault(each.pair, []).append(each.result())
    both = [results for results in pairs.values() if len(results) == 2 and None not in results]
    return sum(first == second for first, second in both) / len(both) if both else None


def _decided(asked: Sequence[Judged]) -> list[tuple[Judged, str, Showing]]:
    return [
        (each, each.verdict.overall, each.shown)
        for each in asked
        if each.shown is not None and each.verdict is not None and each.verdict.overall != TIE
    ]


def _leaning(
    asked: Sequence[Judged],
    kind: Literal["position", "label"],
    leans: Callable[[str, Showing], bool],
    chance: Chance,
) -> Bias:
    chosen = [(each.cluster, float(leans(choice, shown))) for each, choice, shown in _decided(asked)]
    ones = table([(cluster, (one, 1.0)) for cluster, one in chosen])
    others = table([(cluster, (1.0 - one, 1.0)) for cluster, one in chosen])
    rate = estimate(ones, ratio, chance.of(f"bias {kind}"))
    p_value = contrast(ones, others, ratio, chance.of(f"bias {kind}")).p_value
    return Bias(
        kind=kind,
        rate=rate.value,
        low=rate.low,
        high=rate.high,
        effect=None if rate.value is None else rate.value - 0.5,
        p_value=p_value,
        p_adjusted=None,
        found=None,
        verdicts=len(chosen),
        sentence="",
    )


def _length(asked: Sequence[Judged], chance: Chance) -> Bias:
    """Whether a candidate wins more often where its answer is the longer one: not merely whether longer answers win."""
    chosen = [
        (each.cluster, float((result_of(choice, shown) == "win") == each.longer))
        for each, choice, shown in _decided(asked)
        if each.longer is not None
    ]
    rate = estimate(table([(cluster, (one, 1.0)) for cluster, one in chosen]), ratio, chance.of("bias length"))
    effect = permuted_effect(_by_length(asked), chance.of("bias length"))
    return Bias(
        kind="length",
        rate=rate.value,
        low=rate.low,
        high=rate.high,
        effect=effect.difference.value,
        p_value=effect.p_value,
        p_adjusted=None,
        found=None,
        verdicts=len(chosen),
        sentence="",
    )


def _by_length(judged: Sequence[Judged]) -> list[tuple[str, float, bool]]:
    """(prompt, score of the pair, whether the candidate's answer is the longer one), where they differ in length."""
    pairs: dict[tuple[str, int], list[tuple[Judged, float]]] = {}
    for each in judged:
        if each.longer is not None and (result := each.result()) is not None:
            pairs.setdefault(each.pair, []).append((each, score_of(result)))
    return [
        (scored[0][0].cluster, sum(score for _, score in scored) / len(scored), bool(scored[0][0].longer))
        for _, scored in sorted(pairs.items())
    ]


def _at_equal_length(judged: Sequence[Judged], chance: Chance) -> float | None:
    found = permuted_effect(_by_length(judged), chance.of("equal length"))
    return None if found.first is None or found.second is None else (found.first + found.second) / 2
