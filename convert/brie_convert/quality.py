"""How far the next tokens of a file are from those of the model, in numbers. It knows logits, not where they are from.

Logits are wide (a vocabulary of 256,000 is a megabyte per token), so they come in blocks of rows and leave as four
numbers per token.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Block = tuple[Floats, Floats, npt.NDArray[np.int64]]
"""Rows of reference logits, the file's for the same tokens, and the token that comes next (-1: none does)."""

_UNDECIDED = 0.01


@dataclass(frozen=True, slots=True)
class Divergence:
    """The file's next-token probabilities against the reference's."""

    tokens: int
    """Positions compared."""
    kl_mean: float
    """Kullback-Leibler divergence from the reference, in nats, as are those below."""
    kl_mean_error: float
    """Standard error of the mean, as if positions were independent."""
    kl_median: float
    kl_p99: float
    kl_max: float
    top_1: float
    """Share of positions with the same likeliest token, from 0 to 1."""
    top_1_decided: float
    """The same among positions where the reference's best leads by more than 0.01: ties fall either way."""
    predicted_tokens: int
    """Positions whose next token is known; perplexities are over these."""
    perplexity_reference: float
    perplexity: float
    perplexity_ratio: float
    probability_rms_difference: float
    """Root of the mean squared difference of the next token's probability."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a file must keep to."""

    kl_mean: float
    top_1: float

    def broken_by(self, found: Divergence) -> str | None:
        """What is out of bounds, in words; NaN is."""
        if not found.kl_mean < self.kl_mean:
            return f"mean KL {found.kl_mean:.3g} where less than {self.kl_mean:g} is due"
        if not found.top_1_decided > self.top_1:
            return (
                f"the same likeliest token at {found.top_1_decided:.2%} of positions where over {self.top_1:.0%} is due"
            )
        return None


@dataclass(slots=True)
class _Columns:
    """One entry per position."""

    divergence: list[npt.NDArray[np.float64]] = field(default_factory=list)
    same: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    decided: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    wanted: list[npt.NDArray[np.float64]] = field(default_factory=list)
    found: list[npt.NDArray[np.float64]] = field(default_factory=list)


def measure(blocks: Iterable[Block]) -> Divergence:
    """The divergence over all blocks; there must be at least one position with a next token."""
    columns = _Columns()
    for reference, candidate, following in blocks:
        _add(columns, reference, candidate, following)
    return _summary(columns)


def _add(columns: _Columns, reference: Floats, candidate: Floats, following: npt.NDArray[np.int64]) -> None:
    p, q = _log_probabilities(reference), _log_probabilities(candidate)
    rows = np.arange(len(p))
    best = p.argmax(-1)
    columns.divergence.append((np.exp(p) * (p - q)).sum(-1, dtype=np.float64))
    columns.same.append(best == q.argmax(-1))
    second = np.partition(p, -2, axis=-1)[:, -2]
    columns.decided.append(p[rows, best] - second > _UNDECIDED)
    known = following >= 0
    columns.wanted.append(p[rows[known], following[known]])
    columns.found.append(q[rows[known], following[known]])


def _log_probabilities(logits: Floats) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(-1, keepdims=True))
    return shifted


def _summary(columns: _Columns) -> Divergence:
    divergence = np.maximum(np.concatenate(columns.divergence), 0.0)  # rounding alone makes it negative
    same, decided = np.concatenate(columns.same), np.concatenate(columns.decided)
    wanted, found = np.concatenate(columns.wanted), np.concatenate(columns.found)
    return Divergence(
        tokens=len(divergence),
        kl_mean=float(divergence.mean()),
        kl_mean_error=float(divergence.std() / math.sqrt(len(divergence))),
        kl_median=float(np.median(divergence)),
        kl_p99=float(np.quantile(divergence, 0.99)),
        kl_max=float(divergence.max()),
        top_1=float(same.mean()),
        top_1_decided=float(same[decided].mean()) if decided.any() else 1.0,
        predicted_tokens=len(wanted),
        perplexity_reference=float(np.exp(-wanted.mean())),
        perplexity=float(np.exp(-found.mean())),
        perplexity_ratio=float(np.exp(wanted.mean() - found.mean())),
        probability_rms_difference=float(np.sqrt(np.mean((np.exp(wanted) - np.exp(found)) ** 2))),
    )
