"""Which tokens a request has met so far, and how often in its answer. It knows ids, and neither tensors nor penalties.

The arrays are machine numbers, so that an engine takes those of all rows together without looking at each.
"""

from array import array
from collections.abc import Iterable

from brie_server.engine.base import Prompt


class Occurrences:
    """Grows by one token at a time; `ids` and `counts` have the same length and order."""

    def __init__(self, prompt_ids: Iterable[int]) -> None:
        self.ids = array("q", dict.fromkeys(prompt_ids))
        """Each id once."""
        self.counts = array("f", bytes(4 * len(self.ids)))
        """How often it stands in the answer: 0 for those of the prompt alone."""
        self._places = {token: place for place, token in enumerate(self.ids)}

    def add(self, token: int) -> None:
        """Take the next token of the answer."""
        place = self._places.setdefault(token, len(self.ids))
        if place == len(self.ids):
            self.ids.append(token)
            self.counts.append(0)
        self.counts[place] += 1


def occurrences_for(prompt: Prompt) -> Occurrences | None:
    """What a prompt's penalties ask for: only repetition looks at the prompt; None where there is no penalty."""
    if not prompt.sampling.penalizes:
        return None
    return Occurrences(prompt.token_ids if prompt.sampling.repetition_penalty != 1 else ())
