"""Intervals and tests over prompts: a clustered bootstrap, chance exchanges, Holm. It knows sums by prompt, no figure.

Answers to one prompt are not independent, so prompts are what is drawn. A figure is a function of sums over prompts (a
ratio, the exponential of one, BLEU), so that drawing prompts again is one product of counts and sums.

The interval is the percentile bootstrap's, widened for few prompts (Hesterberg, "What Teachers Should Know About the
Bootstrap", 2015, section 3.2). The test exchanges both sides prompt by prompt: under the hypothesis that they are the
same model it is exact for any number of prompts. Holm's adjustment holds the chance of any false alarm in a family.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Form = Callable[[Array], Array]
"""From sums, on the last axis, to a figure; nan where there is none."""

_AT_ONCE = 2_000_000
"""Drawn counts in memory."""


@dataclass(frozen=True, slots=True)
class Table:
    """Sums by prompt."""

    clusters: tuple[str, ...]
    sums: Array
    """One row a cluster."""
    items: int

    def at(self, clusters: Sequence[str]) -> Array:
        """The rows of these clusters, in this order."""
        places = {cluster: place for place, cluster in enumerate(self.clusters)}
        return self.sums[[places[cluster] for cluster in clusters]]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its interval; None where there is none."""

    value: float | None
    low: float | None
    high: float | None


_NOTHING = Estimate(None, None, None)


@dataclass(frozen=True, slots=True)
class Contrast:
    """One side's figure minus the other's."""

    first: float | None
    second: float | None
    difference: Estimate
    effect: Estimate
    """Its size: Cohen's d of paired samples."""
    p_value: float | None
    clusters: int


@dataclass(frozen=True, slots=True)
class Chance:
    """How chance is drawn."""

    confidence: float
    resamples: int
    seed: int
    figure: str = ""

    def of(self, figure: str) -> "Chance":
        """What is drawn for one figure: the same whenever it is."""
        return replace(self, figure=figure)

    def draws(self, purpose: str) -> np.random.Generator:
        """Numbers for one purpose."""
        return np.random.default_rng([self.seed, crc32(f"{purpose} {self.figure}".encode())])


def table(rows: Sequence[tuple[str, Sequence[float]]]) -> Table:
    """From (cluster, summands) of each item."""
    sums: dict[str, Array] = {}
    for cluster, summands in rows:
        added = np.asarray(summands, dtype=np.float64)
        sums[cluster] = sums[cluster] + added if cluster in sums else added
    clusters = tuple(sorted(sums))
    return Table(clusters, np.array([sums[each] for each in clusters]), len(rows))


def ratio(sums: Array) -> Array:
    """The first sum over the second: a mean by items or tokens."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sums[..., 1] > 0, sums[..., 0] / sums[..., 1], np.nan)


def exponential(sums: Array) -> Array:
    """Of a ratio: a perplexity."""
    with np.errstate(over="ignore"):
        return np.exp(ratio(sums))


def estimate(given: Table, form: Form, chance: Chance) -> Estimate:
    """The figure of one side."""
    if not given.clusters:
        return _NOTHING
    value = _number(form(given.sums.sum(0)))
    drawn = np.concatenate([form(counts @ given.sums) for counts in _draws(len(given.clusters), chance)])
    return Estimate(value, *_interval(drawn, len(given.clusters), chance.confidence))


def contrast(first: Table, second: Table, form: Form, chance: Chance, each: Form = ratio) -> Contrast:
    """Both sides over the prompts that both have; `each` is the figure of one prompt, of which the effect's size is
    made."""
    clusters = sorted(set(first.clusters) & set(second.clusters))
    if not clusters:
        return Contrast(None, None, _NOTHING, _NOTHING, None, 0)
    ones, others = first.at(clusters), second.at(clusters)
    one, other = _number(form(ones.sum(0))), _number(form(others.sum(0)))
    difference = None if one is None or other is None else one - other
    pairs = [form(counts @ ones) - form(counts @ others) for counts in _draws(len(clusters), chance)]
    estimated = Estimate(difference, *_interval(np.concatenate(pairs), len(clusters), chance.confidence))
    p_value = None if difference is None else _exchanged(ones, others, form, difference, chance)
    return Contrast(one, other, estimated, _effect(each(ones) - each(others), chance), p_value, len(clusters))


def permuted_effect(rows: Sequence[tuple[str, float, bool]], chance: Chance) -> Contrast:
    """Mean of the items that are marked minus that of the others, marks being what chance deals anew.

    For what is no exchange of two sides, such as whether the longer answer wins. Each row is (cluster, value, marked);
    those of a cluster stand in an order that says nothing of values and marks.
    """
    order = sorted(rows, key=lambda row: row[0])
    marked = table([(cluster, (value, 1.0)) for cluster, value, mark in order if mark])
    others = table([(cluster, (value, 1.0)) for cluster, value, mark in order if not mark])
    clusters = sorted({cluster for cluster, _, _ in order})
    if not marked.clusters or not others.clusters:
        return Contrast(None, None, _NOTHING, _NOTHING, None, len(clusters))
    one, other = float(ratio(marked.sums.sum(0))), float(ratio(others.sums.sum(0)))
    ones, twos = _spread(marked, clusters), _spread(others, clusters)
    drawn = np.concatenate([ratio(counts @ ones) - ratio(counts @ twos) for counts in _draws(len(clusters), chance)])
    difference = Estimate(one - other, *_interval(drawn, len(clusters), chance.confidence))
    return Contrast(one, other, difference, _NOTHING, _dealt(order, one - other, chance), len(clusters))


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Holm's adjustment of a family's p-values; those that are None take no part."""
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    adjusted: dict[str, float | None] = dict.fromkeys(p_values)
    highest = 0.0
    for rank, (p, name) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        adjusted[name] = highest
    return adjusted


def kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Cohen's kappa of two judges' verdicts; None where there are none, or where chance alone would always agree."""
    if not pairs:
        return None
    kinds = {kind for pair in pairs for kind in pair}
    agreed = sum(one == other for one, other in pairs) / len(pairs)
    shares = [
        (sum(one == kind for one, _ in pairs) / len(pairs), sum(other == kind for _, other in pairs) / len(pairs))
        for kind in sorted(kinds)
    ]
    by_chance = math.fsum(one * other for one, other in shares)
    return None if by_chance >= 1.0 else (agreed - by_chance) / (1.0 - by_chance)


def _draws(number: int, chance: Chance) -> Iterator[Array]:
    """Counts of how often each of `number` prompts is drawn, some resamples at a time."""
    draws, left = chance.draws("bootstrap"), chance.resamples
    while left:
        some = min(left, max(_AT_ONCE // number, 1))
        yield draws.multinomial(number, np.full(number, 1.0 / number), size=some).astype(np.float64)
        left -= some


def _interval(drawn: Array, clusters: int, confidence: float) -> tuple[float | None, float | None]:
    """None with fewer than two prompts: nothing is known of how they differ."""
    found = drawn[np.isfinite(drawn)]
    if clusters < 2 or not found.size:
        return None, None
    tail = NormalDist().cdf(-math.sqrt(clusters / (clusters - 1)) * _student((1 + confidence) / 2, clusters - 1))
    low, high = np.quantile(found, [tail, 1 - tail])
    return float(low), float(high)


def _student(probability: float, freedom: int) -> float:
    """Quantile of Student's t by its expansion about the normal's (Abramowitz and Stegun, 26.7.5)."""
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + math.fsum(term / freedom ** (power + 1) for power, term in enumerate(terms))


def _exchanged(ones: Array, others: Array, form: Form, difference: float, chance: Chance) -> float:
    """Of all exchanges that there are, or if they are too many of some drawn and the one at hand."""
    total, gap, base = ones.sum(0) + others.sum(0), ones - others, others.sum(0)
    as_large = 0
    for kept in _exchanges(len(ones), chance):
        first = kept @ gap + base
        found = np.abs(form(first) - form(total - first))
        as_large += int(np.sum(found >= abs(difference) * (1 - 1e-9) - 1e-12))
    if (ways := 1 << len(ones)) <= chance.resamples:
        return as_large / ways
    return (1 + as_large) / (1 + chance.resamples)


def _exchanges(number: int, chance: Chance) -> Iterator[Array]:
    """Which of `number` prompts keep their sides, some ways at a time; all ways, if there are no fewer resamples."""
    if 1 << number <= chance.resamples:
        yield (np.arange(1 << number)[:, None] >> np.arange(number) & 1).astype(np.float64)
        return
    draws, left = chance.draws("exchanges"), chance.resamples
    while left:
        some = min(left, max(_AT_ONCE // number, 1))
        yield draws.integers(0, 2, size=(some, number)).astype(np.float64)
        left -= some


def _dealt(rows: Sequence[tuple[str, float, bool]], difference: float, chance: Chance) -> float:
    """Prompts exchange all their marks with prompts of as many items: what belongs to a prompt stays together."""
    draws, count = chance.draws("deals"), sum(mark for _, _, mark in rows)
    total, marked = math.fsum(value for _, value, _ in rows), np.zeros(chance.resamples)
    for values, marks in _by_size(rows):
        marked += [np.sum(values * marks[draws.permutation(len(marks))]) for _ in range(chance.resamples)]
    found = np.abs(marked / count - (total - marked) / (len(rows) - count))
    as_large = int(np.sum(found >= abs(difference) * (1 - 1e-9) - 1e-12))
    return (1 + as_large) / (1 + chance.resamples)


def _by_size(rows: Sequence[tuple[str, float, bool]]) -> list[tuple[Array, Array]]:
    """Values and marks, a row a prompt, of the prompts with one item, with two, and so on."""
    prompts: dict[str, list[tuple[float, float]]] = {}
    for cluster, value, mark in rows:
        prompts.setdefault(cluster, []).append((value, float(mark)))
    sizes: dict[int, list[list[tuple[float, float]]]] = {}
    for each in prompts.values():
        sizes.setdefault(len(each), []).append(each)
    found = [np.array(group) for _, group in sorted(sizes.items())]
    return [(group[..., 0], group[..., 1]) for group in found]


def _spread(given: Table, clusters: Sequence[str]) -> Array:
    """Its sums at these clusters; zeros where it has none."""
    zeros = np.zeros(given.sums.shape[1])
    places = {cluster: place for place, cluster in enumerate(given.clusters)}
    return np.array([given.sums[places[each]] if each in places else zeros for each in clusters])


def _effect(differences: Array, chance: Chance) -> Estimate:
    """Mean of the differences by prompt over their standard deviation; None where they do not differ."""
    found = differences[np.isfinite(differences)]
    if found.size < 2 or (spread := float(found.std(ddof=1))) <= 1e-12 * float(np.abs(found).max()):
        return _NOTHING
    from_mean, number = found - found.mean(), found.size

    def drawn(counts: Array) -> Array:
        variance = (counts @ from_mean**2 - (counts @ from_mean) ** 2 / number) / (number - 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(variance > (1e-6 * spread) ** 2, counts @ found / number / np.sqrt(variance), np.nan)

    sizes = np.concatenate([drawn(counts) for counts in _draws(number, chance)])
    return Estimate(float(found.mean()) / spread, *_interval(sizes, number, chance.confidence))


def _number(value: Array) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
