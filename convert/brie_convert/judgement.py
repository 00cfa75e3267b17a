"""Whether a written file answers as the model does, by its next-token probabilities; and the account of it.

It knows limits, and what was compared with what. The numbers come from llama.cpp on one side, from transformers and
PEFT in float32 on the other; where these cannot run, the account says so in place of a judgement.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from brie_convert.gguf_file import TensorTally, tally
from brie_convert.llama_runtime import open_file
from brie_convert.quality import Block, Divergence, Floats, Limits, measure
from brie_convert.reference_process import Reference, ReferenceTask, obstacle, reference_process
from brie_core.errors import EngineFailure, InvalidRequest

Importance = Mapping[str, Floats]
"""By GGUF tensor: the mean square of each column's input."""

Window = Sequence[int]

_EXACT = frozenset({"F32", "F16"})
_LIMITS = (
    (_EXACT, Limits(1e-4, 0.99)),
    (_EXACT | {"BF16"}, Limits(1e-2, 0.9)),  # llama.cpp rounds activations as well
    (_EXACT | {"BF16", "Q8_0"}, Limits(0.1, 0.7)),
)
_NOT_ASKED = "it was not asked for"
_ANY_NUMBERS = Limits(float("inf"), -1.0)


@dataclass(frozen=True, slots=True)
class Account:
    """What the judgement leaves in the manifest."""

    logits: str
    """`passed`, or `not compared: ` and why."""
    quality: Mapping[str, Any]

    def added_to(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """The manifest with what was compared, and how far the file is from the model."""
        verification = {**manifest["verification"], "logits": self.logits}
        return {**manifest, "verification": verification, "quality": dict(self.quality)}


@contextmanager
def judging(task: ReferenceTask, folder: Path, *, compare: bool, needs_importance: bool) -> Iterator["Judge"]:
    """A judge whose reference is computed in `folder` from now on; with `compare` False he judges nothing.

    Raises InvalidRequest where an importance matrix is needed and there is nothing to make one from.
    """
    wanted = compare or bool(task.calibration)
    missing = obstacle(task) if wanted else _NOT_ASKED
    if needs_importance and (missing or not task.calibration):
        _refuse(missing if task.calibration else "give texts, or export an adapter that was trained here")
    with nullcontext() if missing else reference_process(task, folder) as reference:
        yield Judge(task, reference, missing or (None if compare else _NOT_ASKED))


def _refuse(why: str | None) -> NoReturn:
    raise InvalidRequest(
        f"This quantization is only made with an importance matrix, and there is nothing to make one from: {why}.",
        param="quantization",
        code="calibration_required",
    )


class Judge:
    """Compares files with one reference; use `judging`."""

    def __init__(self, task: ReferenceTask, reference: Reference | None, missing: str | None) -> None:
        self._task = task
        self._reference = reference
        self._missing = missing
        self._layers = 0

    def importance(self, names: Mapping[str, str]) -> Importance | None:
        """The importance matrix, waited for; `names` maps a layer in the checkpoint to its tensor in the GGUF."""
        if self._reference is None or not self._task.calibration:
            return None
        found = self._reference.importance()
        matrix = {tensor: found[layer] for layer, tensor in names.items() if layer in found}
        self._layers = len(matrix)
        return matrix

    def compare(self, file: Path) -> Divergence | None:
        """Judge one file by the limits of what it stores; None where there is no reference.

        Raises EngineFailure (export_verification_failed).
        """
        if self._missing or self._reference is None:
            return None
        with open_file(file) as loaded:
            found = measure(_blocks(self._reference.logits(), loaded.logits, self._task.evaluation))
        if broken := limits(tally(file)).broken_by(found):
            raise EngineFailure(
                f"The exported file does not answer as the model does: {broken}, over {found.tokens} tokens.",
                code="export_verification_failed",
            )
        return found

    def account(self, found: Divergence | None, before: Divergence | None) -> Account:
        """Of the finished file, and of what it was quantized from."""
        matrix = {"layers": self._layers, "tokens": sum(map(len, self._task.calibration))} if self._layers else None
        if found is None or self._reference is None:
            return Account(f"not compared: {self._missing}", {"importance_matrix": matrix})
        texts = "Brie's own prose" if self._task.own_texts else "held out of those given"
        evaluation = {"texts": texts, "sha256_of_tokens": _digest(self._task.evaluation)}
        quality = {
            "against": f"{'base and adapter' if self._task.adapter else 'base'} in float32 by transformers",
            "versions": dict(self._reference.versions),
            "evaluation": evaluation,
            **_rounded(found),
            "before_quantization": _rounded(before) if before else None,
            "importance_matrix": matrix,
        }
        return Account("passed", quality)


def limits(written: TensorTally) -> Limits:
    """What a file that stores these types must keep to; nothing but numbers is asked of coarser ones than Q8_0."""
    return next((kept for types, kept in _LIMITS if written.types.keys() <= types), _ANY_NUMBERS)


def stored_in_words(quantization: str, written: TensorTally, fallbacks: int) -> str:
    """What the weights are really stored as, in a sentence: the name of a quantization only says what was aimed at."""
    total = sum(written.weights.values())
    shares = sorted(written.weights.items(), key=lambda item: -item[1])
    listed = ", ".join(f"{count / total:.0%} {kind}" for kind, count in shares if count / total >= 0.005)
    bits = f"{written.bits_per_weight:.2f} bits per weight"
    if not fallbacks:
        return f"{quantization}: {bits}; of all weights {listed}."
    return (
        f"{quantization} here is mostly {shares[0][0]}: {bits}; of all weights {listed}. {fallbacks} of "
        f"{sum(written.types.values())} tensors have rows that are no multiple of 256 and got a type of smaller blocks."
    )


def _blocks(
    reference: Floats, logits: Callable[[Sequence[Window]], Iterator[Floats]], windows: Sequence[Window]
) -> Iterator[Block]:
    following = np.concatenate([[*window[1:], -1] for window in windows]).astype(np.int64)
    start = 0
    for found in logits(windows):
        stop, columns = start + len(found), found.shape[1]
        if reference.shape[1] < columns:
            raise EngineFailure("The file knows more tokens than the model does.", code="export_verification_failed")
        yield reference[start:stop, :columns], found, following[start:stop]
        start = stop


def _digest(windows: Sequence[Window]) -> str:
    """sha256 over the token ids, so that a repetition knows it has the same."""
    return hashlib.sha256(str([list(window) for window in windows]).encode()).hexdigest()


def _rounded(found: Divergence) -> dict[str, float | int]:
    return {name: value if isinstance(value, int) else float(f"{value:.6g}") for name, value in asdict(found).items()}
