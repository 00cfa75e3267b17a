"""What an engine does with a prompt's form: begin, ask, advance. It knows bits and ids, no grammar and no logits."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from brie_server.engine.base import Constraint, Prompt


def constraint_for(prompt: Prompt) -> Constraint | None:
    """What the answer to a prompt is held to from its first token on; None where it may be anything."""
    return None if prompt.form is None else prompt.form.begin()


def completes(constraint: Constraint | None, token: int) -> bool:
    """Take the next token of the text, which is no stop token; whether nothing may follow it."""
    if constraint is None:
        return False
    constraint.accept(token)
    return constraint.is_over


def allowed_tokens(constrained: Sequence[tuple[Constraint, frozenset[int]]], vocab_size: int) -> npt.NDArray[np.bool_]:
    """A row for each constraint with its request's stop ids: which tokens may be next.

    A stop token may where the answer can end, and nowhere else, whatever it spells.
    """
    allowed_RV = np.zeros((len(constrained), vocab_size), np.bool_)
    for row_V, (constraint, stop_ids) in zip(allowed_RV, constrained, strict=True):
        bits = np.unpackbits(np.frombuffer(constraint.allowed(), np.uint8), bitorder="little")[:vocab_size]
        row_V[: len(bits)] = bits
        row_V[[stop for stop in stop_ids if stop < vocab_size]] = constraint.may_end
    return allowed_RV
