"""What a run makes small: the loss of a micro-batch, by each method. It knows log-probabilities, no model and no step.

    Supervised   -log p of what the assistant says, over all its tokens alike
    Preference   DPO: -log sigmoid(beta * (chosen's gain over rejected - the same of the reference))
    Desirability KTO: how much a desirable answer gained, an undesirable lost, against what the model gained anywhere

Every sum that a metric is made of is a sum over micro-batches, so that metrics do not depend on how a step was cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from brie_trainer.data.examples import IGNORED, Example, Rated
from brie_trainer.training.job_rows import Item
from brie_trainer.training.model import Scores

SUMS = ("loss", "weight", "hits", "tokens", "margin", "wins", "pairs")


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over items, float64 of shape (len(SUMS),): additive over micro-batches, and over processes."""

    values: Tensor

    @classmethod
    def of(cls, **named: float | Tensor) -> "Sums":
        """From some of the names in SUMS; the others are zero."""
        return cls(torch.tensor([float(named.get(name, 0.0)) for name in SUMS], dtype=torch.float64))

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(self.values + other.values)

    def mean(self, name: str, over: str) -> float | None:
        """One sum divided by another; None where there is nothing to divide by."""
        top, bottom = (float(self.values[SUMS.index(each)]) for each in (name, over))
        return top / bottom if bottom else None


class Objective(Protocol):
    """One method's loss."""

    @property
    def needs_reference(self) -> bool:
        """Whether `loss` is given the reference's log-probabilities."""
        ...

    @property
    def needs_drift(self) -> bool:
        """Whether `loss` is given how far the model has moved on answers that belong to other prompts."""
        ...

    def weight(self, item: Item) -> float:
        """What the item counts in its step's mean: a step's loss is the sum of losses over the sum of weights."""
        ...

    def loss(
        self, items: Sequence[Item], scores: Scores, reference: Tensor | None, drift: float
    ) -> tuple[Tensor, Sums]:
        """The summed loss of `items`, to differentiate, and what is told of it. `reference`: one sum per sequence."""
        ...


def per_sequence(scores: Scores, num_sequences: int) -> Tensor:
    """The log-probability of each sequence's answer, of shape (num_sequences,)."""
    return scores.log_probs_N.new_zeros(num_sequences).index_add(0, scores.rows_N, scores.log_probs_N)


@dataclass(frozen=True, slots=True)
class Supervised:
    """Cross entropy over answers, a mean over tokens."""

    needs_reference: bool = False
    needs_drift: bool = False

    def weight(self, item: Item) -> float:
        """Tokens that are learnt."""
        return item.num_trained

    def loss(
        self, items: Sequence[Item], scores: Scores, reference: Tensor | None, drift: float
    ) -> tuple[Tensor, Sums]:
        """See `Objective`."""
        loss, tokens = -scores.log_probs_N.sum(), len(scores.log_probs_N)
        return loss, Sums.of(loss=loss.detach(), weight=tokens, hits=scores.is_top1_N.sum(), tokens=tokens)


@dataclass(frozen=True, slots=True)
class Preference:
    """Direct preference optimisation (Rafailov et al. 2023, equation 7), a mean over pairs."""

    beta: float
    needs_reference: bool = True
    needs_drift: bool = False

    def weight(self, item: Item) -> float:
        """Every pair counts the same."""
        return 1.0

    def loss(
        self, items: Sequence[Item], scores: Scores, reference: Tensor | None, drift: float
    ) -> tuple[Tensor, Sums]:
        """See `Objective`; `margin` is in log-probability, not scaled by beta."""
        if reference is None:
            raise ValueError("preferences are judged against a reference")
        gains = per_sequence(scores, 2 * len(items)) - reference
        margins = gains[0::2] - gains[1::2]
        loss = -logsigmoid(self.beta * margins).sum()
        is_chosen_N = scores.rows_N % 2 == 0
        return loss, _judged(loss, margins, scores.is_top1_N[is_chosen_N])


@dataclass(frozen=True, slots=True)
class Desirability:
    """KTO (Ethayarajh et al. 2024), a mean over examples."""

    beta: float
    needs_reference: bool = True
    needs_drift: bool = True

    def weight(self, item: Item) -> float:
        """Every answer counts the same."""
        return 1.0

    def loss(
        self, items: Sequence[Item], scores: Scores, reference: Tensor | None, drift: float
    ) -> tuple[Tensor, Sums]:
        """See `Objective`; `wins` counts desirable answers above the drift and undesirable ones below."""
        if reference is None:
            raise ValueError("ratings are judged against a reference")
        gains = per_sequence(scores, len(items)) - reference
        signs = torch.tensor([1.0 if is_desirable(item) else -1.0 for item in items], device=gains.device)
        values = torch.sigmoid(self.beta * signs * (gains - drift))
        loss = (1 - values).sum()
        return loss, _judged(loss, signs * (gains - drift), scores.is_top1_N)


def _judged(loss: Tensor, margins: Tensor, hits: Tensor) -> Sums:
    """What is told of answers held against a reference: by how much they won, and which tokens were the likeliest."""
    won, number = margins.detach(), len(margins)
    return Sums.of(
        loss=loss.detach(),
        weight=number,
        margin=won.sum(),
        wins=(won > 0).sum(),
        pairs=number,
        hits=hits.sum(),
        tokens=len(hits),
    )


def is_desirable(item: Item) -> bool:
    """Of a rated answer."""
    return isinstance(item, Rated) and item.desirable


def mismatched(items: Sequence[Item]) -> list[Example]:
    """Each item's prompt with the answer of the next: what the model says there tells how far it drifted everywhere."""
    examples = [item.sequences[0] for item in items]
    strangers = []
    for one, other in zip(examples, [*examples[1:], examples[0]], strict=True):
        prompt, begin = one.input_ids[: one.num_prompt], other.num_prompt
        strangers.append(Example(prompt + other.input_ids[begin:], [IGNORED] * len(prompt) + other.labels[begin:]))
    return strangers
