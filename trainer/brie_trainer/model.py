"""A base model with LoRA, as training sees it: batches in, log-probabilities of labels out. It knows no loss.

Labels are picked out before the head, so that prompts and padding never meet the vocabulary.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from brie_trainer.batches import Batch
from brie_trainer.examples import IGNORED


@dataclass(frozen=True, slots=True)
class Scores:
    """What the model thinks of N labels, in the order of the batch's rows."""

    log_probs_N: Tensor
    """float32, differentiable."""
    is_top1_N: Tensor
    """Whether the model would have said it, taking the likeliest."""
    rows_N: Tensor
    """Which row of the batch each label belongs to."""


class LoraModel:
    """One base with one adapter in training."""

    def __init__(self, model: Any) -> None:
        self._model = model
        trained = ((name, tensor) for name, tensor in model.named_parameters() if tensor.requires_grad)
        self.parameters: Mapping[str, torch.nn.Parameter] = {
            name.replace(".default.", "."): tensor for name, tensor in trained
        }
        """The tensors that are trained, float32, by the names they are saved under."""

    @property
    def device(self) -> torch.device:
        """Where everything lies."""
        return next(iter(self.parameters.values())).device

    @property
    def vocab_size(self) -> int:
        """Outputs of the head."""
        return int(self._model.config.vocab_size)

    def copy_from(self, folder: Path) -> None:
        """Take every trained tensor's values from the PEFT folder `folder`."""
        found = load_file(folder / "adapter_model.safetensors", device=str(self.device))
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(found[name])

    def checkpoint_activations(self) -> None:
        """From here on compute activations twice instead of keeping them."""
        self._model.gradient_checkpointing_enable({"use_reentrant": False})
        self._model.enable_input_require_grads()

    def score(self, batch: Batch, *, training: bool) -> Scores:
        """Log-probabilities of every label of `batch`; dropout only where `training`."""
        self._model.train(training)
        batch = batch.to(self.device)
        labels_BT = batch.labels_BT[:, 1:]
        rows_N, at_N = (labels_BT != IGNORED).nonzero(as_tuple=True)
        whole = self._model.get_base_model()
        hidden_BTH = whole.model(
            input_ids=batch.ids_BT, attention_mask=batch.mask_BT, use_cache=False
        ).last_hidden_state
        logits_NV = whole.lm_head(hidden_BTH[rows_N, at_N]).float()
        labels_N = labels_BT[rows_N, at_N]
        log_probs_N = logits_NV.log_softmax(-1).gather(-1, labels_N[:, None])[:, 0]
        return Scores(log_probs_N, logits_NV.argmax(-1) == labels_N, rows_N)

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """The base alone."""
        with self._model.disable_adapter():
            yield

    def save(self, folder: Path) -> None:
        """Write a plain PEFT folder."""
        self._model.save_pretrained(str(folder))


def load(  # noqa: PLR0913  # what a model is loaded by
    base: Path,
    *,
    rank: int,
    alpha: int,
    dropout: float,
    target_modules: Sequence[str] | None,
    dtype: str,
    device: str,
    gradient_checkpointing: bool,
    quantization: str | None,
    from_adapter: Path | None,
    seed: int,
) -> LoraModel:
    """The base with a fresh adapter, or with a copy of the one in `from_adapter`."""
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    whole = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype), local_files_only=True)
    whole.to(torch.device(device))  # type: ignore[arg-type]
    if from_adapter is not None:
        return LoraModel(PeftModel.from_pretrained(whole, str(from_adapter), is_trainable=True))
    if gradient_checkpointing:
        whole.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[no-untyped-call]
        whole.enable_input_require_grads()  # type: ignore[no-untyped-call]
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(target_modules) if target_modules else "all-linear",
        task_type="CAUSAL_LM",
    )
    return LoraModel(get_peft_model(whole, config))
