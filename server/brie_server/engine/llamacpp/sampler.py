"""From one token's logits to the next token. It knows numpy and how a request wants to be sampled, no model."""

from random import Random

import numpy as np
import numpy.typing as npt

from brie_server.engine.base import Sampling

_GREEDY_BELOW = 1e-5
"""A temperature under which dividing by it would overflow float32."""

Floats = npt.NDArray[np.float32]


def sample(logits_V: Floats, sampling: Sampling, chance: Random) -> int | None:
    """The next token; None where the logits hold NaN or infinity. Chance is drawn once, from the request's source."""
    if not np.isfinite(logits_V).all():
        return None
    if sampling.temperature < _GREEDY_BELOW:
        return int(logits_V.argmax())
    weights_V = np.exp((logits_V - logits_V.max()) / np.float32(sampling.temperature))
    point = chance.random()
    if sampling.top_p >= 1:
        return _first_past(weights_V, point)
    kept, tokens = _most_probable(weights_V, sampling.top_p)
    return int(tokens[_first_past(kept, point)])


def _most_probable(weights_V: Floats, top_p: float) -> tuple[Floats, npt.NDArray[np.int64]]:
    """The smallest set of tokens whose share reaches `top_p`, most probable first; one at least.

    Mostly a few hundred hold that share, so that the whole vocabulary is sorted only if they do not.
    """
    total, size = weights_V.sum(dtype=np.float64), len(weights_V)
    for most in (256, size):
        candidates = np.argpartition(weights_V, -most)[-most:] if most < size else np.arange(size)
        tokens = candidates[np.argsort(-weights_V[candidates], kind="stable")]
        cumulative = weights_V[tokens].cumsum(dtype=np.float64)
        if cumulative[-1] >= top_p * total:
            break
    count = int(np.searchsorted(cumulative, top_p * total)) + 1
    return weights_V[tokens[:count]], tokens[:count]


def _first_past(weights: Floats, point: float) -> int:
    """Where the cumulative sum passes that share of its end: never at a weight of zero."""
    cumulative = weights.cumsum(dtype=np.float64)
    found = np.searchsorted(cumulative, point * cumulative[-1], side="right")
    return int(min(found, len(weights) - 1))
