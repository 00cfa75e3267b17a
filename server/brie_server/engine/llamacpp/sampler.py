"""From one token's logits to the next token. It knows numpy and how a request wants to be sampled, no model."""

from random import Random

import numpy as np
import numpy.typing as npt

from brie_server.engine.base import Logprobs, Sampling
from brie_server.engine.constraints import allowed_tokens
from brie_server.engine.llamacpp.sequence import Sequence

_GREEDY_BELOW = 1e-5
"""A temperature under which dividing by it would overflow float32."""
_FEW = 256
"""Candidates among which top_p mostly ends."""

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


def sample(logits_V: Floats, sequence: Sequence) -> int | None:
    """The next token; None where the logits hold NaN or infinity, or where no token is left.

    Chance is drawn once, from the request's source. Logprobs that were asked for are left with the sequence.
    """
    if not np.isfinite(logits_V).all():
        return None
    adjusted_V = adjusted(logits_V, sequence)
    if adjusted_V.max() == -np.inf:
        return None
    token = _choose(adjusted_V, sequence.prompt.sampling, sequence.random)
    if sequence.prompt.logprobs is not None:
        sequence.logprobs = logprobs_of(logits_V, token, sequence.prompt.logprobs)
    return token


def adjusted(logits_V: Floats, sequence: Sequence) -> Floats:
    """The logits after bias, min_tokens, penalties and form; the same array where the request has none of them."""
    sampling = sequence.prompt.sampling
    if not (sequence.occurrences or sampling.logit_bias or sequence.forbidden_ids or sequence.constraint):
        return logits_V
    logits_V = logits_V.copy()
    for token, bias in sampling.logit_bias:
        logits_V[token] += np.float32(bias)
    logits_V[[token for token in sequence.forbidden_ids if token < len(logits_V)]] = -np.inf
    if sequence.occurrences:
        ids = np.array(sequence.occurrences.ids, np.int64)
        counts = np.array(sequence.occurrences.counts, np.float32)
        logits_V[ids] = _penalized(logits_V[ids], counts, sampling)
    if sequence.constraint:
        (allowed_V,) = allowed_tokens([(sequence.constraint, sequence.prompt.stop_ids)], len(logits_V))
        logits_V[~allowed_V] = -np.inf
    return logits_V


def logprobs_of(logits_V: Floats, token: int, number: int) -> Logprobs:
    """What the model thought of a token, with so many alternatives."""
    most = logits_V.max()
    total = most + np.log(np.exp(logits_V - most).sum(dtype=np.float64))
    tokens = _largest(logits_V, number) if number else np.arange(0)
    top = zip(tokens.tolist(), (logits_V[tokens] - total).tolist(), strict=True)
    rank = int((logits_V > logits_V[token]).sum()) + 1
    return Logprobs(float(logits_V[token] - total), rank, tuple(top))


def _penalized(logits_K: Floats, counts_K: Floats, sampling: Sampling) -> Floats:
    repetition = np.float32(sampling.repetition_penalty)
    repeated_K = np.where(logits_K > 0, logits_K / repetition, logits_K * repetition)
    frequency, presence = np.float32(sampling.frequency_penalty), np.float32(sampling.presence_penalty)
    penalized_K: Floats = repeated_K - frequency * counts_K - presence * (counts_K > 0)
    return penalized_K


def _choose(logits_V: Floats, sampling: Sampling, chance: Random) -> int:
    if sampling.temperature < _GREEDY_BELOW:
        return int(logits_V.argmax())
    weights_V = np.exp((logits_V - logits_V.max()) / np.float32(sampling.temperature))
    if sampling.min_p > 0:
        weights_V[weights_V < np.float32(sampling.min_p)] = 0  # the largest weight is 1
    point = chance.random()
    if sampling.top_p >= 1 and not sampling.top_k:
        return _first_past(weights_V, point)
    kept, tokens = _most_probable(weights_V, sampling)
    return int(tokens[_first_past(kept, point)])


def _most_probable(weights_V: Floats, sampling: Sampling) -> tuple[Floats, Ids]:
    """What top_k and then top_p leave, most probable first; one token at least.

    Mostly a few hundred hold the share that top_p asks for, so that all are sorted only if they do not.
    """
    total, size = weights_V.sum(dtype=np.float64), len(weights_V)
    for most in (sampling.top_k,) if sampling.top_k else (_FEW, size):
        tokens = _largest(weights_V, most)
        cumulative = weights_V[tokens].cumsum(dtype=np.float64)
        if sampling.top_k:
            total = cumulative[-1]
        if cumulative[-1] >= sampling.top_p * total:
            break
    count = int(np.searchsorted(cumulative, sampling.top_p * total)) + 1 if sampling.top_p < 1 else len(tokens)
    return weights_V[tokens[:count]], tokens[:count]


def _largest(values_V: Floats, number: int) -> Ids:
    """The ids of so many of the largest values, or of all, largest first."""
    size = len(values_V)
    candidates = np.argpartition(values_V, -number)[-number:] if number < size else np.arange(size)
    ids: Ids = candidates[np.argsort(-values_V[candidates], kind="stable")]
    return ids


def _first_past(weights: Floats, point: float) -> int:
    """Where the cumulative sum passes that share of its end: never at a weight of zero."""
    cumulative = weights.cumsum(dtype=np.float64)
    found = np.searchsorted(cumulative, point * cumulative[-1], side="right")
    return int(min(found, len(weights) - 1))
