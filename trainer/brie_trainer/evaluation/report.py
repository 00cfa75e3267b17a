"""What an evaluation says: report.json. It knows how figures are named, not how they are computed.

A report is a pure function of the job and its rows: the same rows give the same bytes. It has no time and no path in
it. Every figure is null where it was not measured, and `note` says why.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

FORMAT = 1
HELD_OUT_FIGURES = ("loss", "perplexity", "token_accuracy", "bits_per_byte")
ANSWER_FIGURES = (
    *("bleu", "chrf", "rouge_l"),
    *("words", "distinct_1", "distinct_2", "mtld", "repetition", "stop_rate"),
)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=())


class Figure(_Frozen):
    """One number of one candidate, with the interval that a bootstrap over prompts gives it."""

    value: float | None
    low: float | None
    high: float | None
    items: int
    """Rows, answers or verdicts it was made from."""
    clusters: int
    """Different prompts among them: what the interval is drawn over."""
    unit: str
    better: Literal["lower", "higher"] | None
    """None where neither is better by itself."""
    note: str | None = None


class Difference(_Frozen):
    """One figure of a candidate minus that of the one it is compared with, over the same prompts."""

    figure: str
    candidate: float | None
    against: float | None
    difference: float | None
    low: float | None
    high: float | None
    effect_size: float | None
    """Mean of the differences by prompt over their standard deviation (Cohen's d of paired samples)."""
    effect_low: float | None = None
    effect_high: float | None = None
    p_value: float | None
    """How often chance exchanges of both sides, prompt by prompt, give so large a difference."""
    p_adjusted: float | None
    """Holm's, over all figures of the same family (held-out, answers) of this comparison."""
    clusters: int
    more_than_noise: bool | None
    """p_adjusted is below 1 - confidence; None where nothing could be compared."""
    sentence: str


class Identity(_Frozen):
    """What answered."""

    model: str
    """As it was asked for."""
    served_as: list[str]
    """The names that its answers gave; more than one shows a server that is not one model."""
    version: str | None
    """Brie's digest of the adapter version, or "base"; None of servers that do not tell it."""
    fingerprints: list[str]
    """`system_fingerprint`: of Brie, base weights and adapter version."""
    tokenizer: str | None = None
    """Digest; losses by token can be compared only where it is the same."""


class Counts(_Frozen):
    """What became of what was to be asked."""

    planned: int
    answered: int
    refused: int
    """The server said that it cannot do this, and would say it again."""
    failed: int
    """Nothing usable came, however often it was asked."""
    not_asked: int
    retries: int
    """Tries after a first, over all rows."""
    reasons: dict[str, int] = {}
    """Of refusals and failures."""


class Lengths(_Frozen):
    """How long answers are, in words."""

    mean: float
    minimum: int
    quartiles: tuple[float, float, float]
    maximum: int
    edges: list[float]
    """Of the histogram's bins, which all candidates share."""
    histogram: list[int]


class CandidateReport(_Frozen):
    """One candidate by itself."""

    identity: Identity
    figures: dict[str, Figure]
    """By the names in HELD_OUT_FIGURES and ANSWER_FIGURES, as far as they were asked for; and `win_rate`, with
    `against`."""
    themes: dict[str, dict[str, Figure]]
    """The figures of answers by theme."""
    lengths: Lengths | None
    held_out: Counts | None
    answers: Counts | None


class Bias(_Frozen):
    """What a judge leans to whatever the answers say."""

    kind: Literal["position", "label", "length"]
    rate: float | None
    """Of its decided verdicts: for the answer shown first, for the one called A, for the longer one."""
    low: float | None
    high: float | None
    effect: float | None
    """Position and label: rate - 0.5. Length: the candidate's win rate where its answer is the longer one, minus where
    it is not."""
    p_value: float | None
    p_adjusted: float | None
    found: bool | None
    """None where it cannot be told."""
    verdicts: int
    sentence: str


class JudgeReport(_Frozen):
    """One judge's verdicts on one comparison."""

    identity: Identity
    counts: Counts
    unparseable: int
    """Of those answered: no verdict by the strict form. Never guessed at."""
    wins: int
    losses: int
    ties: int
    identical: int
    """Calls spared, where both answers were the same to the letter: ties."""
    win_rate: Figure
    win_rate_at_equal_length: float | None
    """Mean of the win rates where the candidate's answer is the longer one, and where it is the shorter one."""
    criteria: dict[str, Figure]
    consistency: float | None
    """How often both orders of a pair gave the same verdict."""
    biases: list[Bias]


class Agreement(_Frozen):
    """Two judges on what both judged."""

    judges: tuple[str, str]
    verdicts: int
    agreement: float | None
    kappa: float | None
    """Cohen's, over win, loss and tie; None where chance alone would agree always."""
    sentence: str = ""


class JudgingReport(_Frozen):
    """All judges on one comparison."""

    win_rate: Difference
    """Candidate's and opponent's win rates (1 - candidate's), a tie half a win; by all judges, each verdict once."""
    criteria: dict[str, Difference]
    judges: dict[str, JudgeReport]
    agreements: list[Agreement]


class Comparison(_Frozen):
    """A candidate against `against`."""

    candidate: str
    against: str
    figures: dict[str, Difference]
    judging: JudgingReport | None
    sentence: str
    """The comparison in one sentence."""


class SweepCell(_Frozen):
    """One candidate under one sampling."""

    candidate: str
    settings: dict[str, float | str | None]
    figures: dict[str, Figure]
    counts: Counts


class Sample(_Frozen):
    """A prompt with what each candidate answered first."""

    item: str
    theme: str
    prompt: str
    reference: str | None
    answers: dict[str, str]


class Material(_Frozen):
    """What was asked."""

    held_out_sha256: str | None
    held_out_rows: int
    held_out_skipped: int
    """Rows that are no prompt (tools, plain texts), among those that were to be."""
    prompts_sha256: str | None
    prompts: int
    themes: dict[str, int]


class Report(_Frozen):
    """report.json."""

    format: int = FORMAT
    title: str
    seed: int
    confidence: float
    against: str | None
    job_sha256: str
    """Of all that decides what is asked: `Job.as_asked`."""
    material: Material
    candidates: dict[str, CandidateReport]
    comparisons: list[Comparison]
    sweep: list[SweepCell]
    samples: list[Sample]
