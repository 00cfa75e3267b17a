"""In bfloat16 the engine rounds where transformers does: as near to it as to be expected, and as near to the truth."""

import pytest
import torch

from brie_server.engine.torch.model import Decoder
from brie_server.engine.torch.scheduler import Limits, Scheduler
from server.engine.asking import drive, make_runner, prompt
from server.engine.tiny_models import CONTEXT_LENGTH, FAMILIES, TinyModel, load_reference, token_ids

TEXT = token_ids(64)
LENGTHS = range(2, len(TEXT) + 1, 2)
TO_TRANSFORMERS, TO_TRUTH = 0.04, 1.2
"""The largest distance to transformers' bfloat16, relative to the logits' spread; and to the logits in float32, as a
multiple of the distance that transformers' bfloat16 has."""


def engine_logits(model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """After each of LENGTHS tokens of the text, all computed in one step."""
    recorded: list[torch.Tensor] = []
    logits = Decoder.logits

    def recording(self: Decoder, hidden: torch.Tensor) -> torch.Tensor:
        recorded.append(logits(self, hidden))
        return recorded[-1]

    monkeypatch.setattr(Decoder, "logits", recording)
    runner = make_runner(model.base, dtype=torch.bfloat16)
    scheduler = Scheduler(Limits(chunk_size=4096), token_budget=8192, context_length=CONTEXT_LENGTH)
    drive(scheduler, runner, [prompt(TEXT[:length], 1) for length in LENGTHS])
    (logits_SV,) = recorded
    return logits_SV


def reference_logits(model: TinyModel, dtype: torch.dtype) -> torch.Tensor:
    """The same by transformers; in float32 from the weights rounded to bfloat16, so that only arithmetic differs."""
    reference = load_reference(model.base.folder, dtype)
    with torch.inference_mode():
        for parameter in reference.parameters():
            parameter.copy_(parameter.bfloat16())
        logits_SV: torch.Tensor = reference(torch.tensor([TEXT])).logits[0, [length - 1 for length in LENGTHS]].float()
    return logits_SV


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).square().mean().sqrt() / theirs.std())


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers(
    tiny_models: dict[str, TinyModel], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_models[family]
    ours_SV = engine_logits(model, monkeypatch)
    theirs_SV, truth_SV = reference_logits(model, torch.bfloat16), reference_logits(model, torch.float32)
    to_transformers = distance(ours_SV, theirs_SV)
    to_truth = distance(ours_SV, truth_SV) / distance(theirs_SV, truth_SV)
    print(f"{family}: {to_transformers:.4f} from transformers, {to_truth:.2f} of its distance to float32")
    assert to_transformers <= TO_TRANSFORMERS
    assert to_truth <= TO_TRUTH
