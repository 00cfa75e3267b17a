"""Which tokens of a step meet which adapter in one product. Pure: counts in, indices out; it knows no tensor."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from brie_server.engine.torch.shapes import Shapes, padded


@dataclass(frozen=True, slots=True)
class Run:
    """Adjacent tokens of a step with one adapter."""

    start: int
    num_tokens: int
    slot: int

    @property
    def end(self) -> int:
        """Behind its last token."""
        return self.start + self.num_tokens


@dataclass(frozen=True, slots=True)
class Share:
    """The tokens of one step that have adapters of one pool: most in one padded product, long runs by themselves."""

    first: int
    """The first slot of the padded product."""
    num_slots: int
    width: int
    """Places for each slot."""
    tokens: tuple[int, ...]
    """The tokens in the padded product."""
    places: tuple[int, ...]
    """Where each of them stands: slot by slot, `width` places each."""
    long_runs: tuple[Run, ...]


def share_out(runs: Iterable[Run]) -> Share:
    """Long runs are taken out, longest first, until at most half of the padded product is padding, or it is small."""
    short, long_runs = sorted(runs, key=lambda run: run.num_tokens), []
    while short and _area(short) > max(2 * sum(run.num_tokens for run in short), 64):
        long_runs.append(short.pop())
    if not short:
        return Share(0, 0, 0, (), (), tuple(long_runs))
    first, width = min(run.slot for run in short), _width(short)
    used: Counter[int] = Counter()
    tokens: list[int] = []
    places: list[int] = []
    for run in short:
        place = (run.slot - first) * width + used[run.slot]
        tokens.extend(range(run.start, run.end))
        places.extend(range(place, place + run.num_tokens))
        used[run.slot] += run.num_tokens
    return Share(first, _num_slots(short), width, tuple(tokens), tuple(places), tuple(long_runs))


def in_few_shapes(share: Share, shapes: Shapes, most_slots: int) -> list[Share]:
    """The same, of few shapes, in a pool of so many slots: a long run becomes a product with one slot."""
    long_runs = [Share(run.slot, 1, run.num_tokens, *_single(run), ()) for run in share.long_runs]
    return [_in_few_shapes(each, shapes, most_slots) for each in (share, *long_runs) if each.tokens]


def _single(run: Run) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tokens and places of a run that has a product for itself."""
    return tuple(range(run.start, run.end)), tuple(range(run.num_tokens))


def _in_few_shapes(share: Share, shapes: Shapes, most_slots: int) -> Share:
    first, num_slots = shapes.window(share.first, share.num_slots, most_slots)
    width, size = shapes.count(share.width), shapes.count(len(share.tokens))
    places = [(share.first - first + place // share.width) * width + place % share.width for place in share.places]
    return Share(first, num_slots, width, tuple(padded(share.tokens, size)), tuple(padded(places, size)), ())


def _area(runs: Sequence[Run]) -> int:
    return _num_slots(runs) * _width(runs)


def _num_slots(runs: Sequence[Run]) -> int:
    slots = [run.slot for run in runs]
    return max(slots) - min(slots) + 1


def _width(runs: Sequence[Run]) -> int:
    used: Counter[int] = Counter()
    for run in runs:
        used[run.slot] += run.num_tokens
    return max(used.values())
