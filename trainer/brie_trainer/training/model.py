"""A base model with LoRA, as training sees it: batches in, log-probabilities of labels out. It knows no loss.

Labels are picked out before the head, so that prompts never meet the vocabulary. Llama-shaped models without dropout
are computed by our own decoder, all others by transformers and PEFT, to the same numbers.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import LoraConfig, TaskType
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from brie_core.errors import InvalidRequest
from brie_core.weights.base_model import read_json
from brie_trainer.training.batches import Batch
from brie_trainer.training.decoder import FAMILIES, Decoder
from brie_trainer.training.head import label_log_probs, softcapped_log_probs

_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True)
class Scores:
    """What the model thinks of N labels, in the order of the batch's sequences."""

    log_probs_N: Tensor
    """float32, differentiable."""
    is_top1_N: Tensor
    """Whether the model would have said it, taking the likeliest."""
    rows_N: Tensor
    """Which sequence of the batch each label belongs to."""


class Body(Protocol):
    """All of a model but its head."""

    parameters: Mapping[str, torch.nn.Parameter]
    """The tensors that are trained, float32, by the names they are saved under."""

    def hidden_states(self, batch: Batch, *, training: bool) -> Tensor:
        """Of shape (S, H)."""
        ...

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """The base alone."""
        ...

    def checkpoint_activations(self) -> None:
        """From here on compute activations twice instead of keeping them."""
        ...


class LoraModel:
    """One base with one adapter in training."""

    def __init__(self, body: Body, head: torch.nn.Linear, softcap: float | None, config: LoraConfig) -> None:
        self._body = body
        self._head = head
        self._softcap = softcap
        self._config = config
        self.parameters = body.parameters
        self.without_adapter = body.without_adapter
        self.checkpoint_activations = body.checkpoint_activations

    @property
    def device(self) -> torch.device:
        """Where everything lies."""
        return self._head.weight.device

    @property
    def vocab_size(self) -> int:
        """Outputs of the head."""
        return len(self._head.weight)

    def score(self, batch: Batch, *, training: bool) -> Scores:
        """Log-probabilities of every label of `batch`; dropout only where `training`."""
        batch = batch.to(self.device)
        hidden_NH = self._body.hidden_states(batch, training=training)[batch.before_N]
        if self._softcap is None and self._head.bias is None:
            return Scores(*label_log_probs(hidden_NH, self._head.weight, batch.labels_N), batch.rows_N)
        found = softcapped_log_probs(self._head(hidden_NH), self._softcap, batch.labels_N)
        return Scores(*found, batch.rows_N)

    def copy_from(self, folder: Path) -> None:
        """Take every trained tensor's values from the PEFT folder `folder`."""
        found = load_file(folder / "adapter_model.safetensors", device=str(self.device))
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(found[name])

    def save(self, folder: Path) -> None:
        """Write a plain PEFT folder."""
        tensors = {name: parameter.detach().contiguous() for name, parameter in self.parameters.items()}
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        self._config.save_pretrained(str(folder))


class OwnBody:
    """The decoder of `brie_trainer.training.decoder`."""

    def __init__(self, decoder: Decoder, config: LoraConfig, device: str) -> None:
        self._decoder = decoder
        self._scale = config.lora_alpha / config.r
        lora = _fresh_lora(decoder, config, device)
        self.parameters: Mapping[str, torch.nn.Parameter] = {
            f"{_PREFIX}{name}.lora_{letter}.weight": tensor
            for name, both in lora.items()
            for letter, tensor in zip("AB", both, strict=True)
        }
        decoder.adapt(lora, self._scale)

    def hidden_states(self, batch: Batch, *, training: bool) -> Tensor:
        """See `Body`; there is nothing in it that training makes different."""
        return self._decoder.hidden_states(batch)

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """See `Body`."""
        self._decoder.scale = None
        try:
            yield
        finally:
            self._decoder.scale = self._scale

    def checkpoint_activations(self) -> None:
        """See `Body`."""
        self._decoder.checkpointing = True


class PeftBody:
    """Any model of transformers, with PEFT's LoRA."""

    def __init__(self, whole: Any, config: LoraConfig) -> None:
        from peft import get_peft_model

        self._peft = get_peft_model(whole, config)
        trained = ((name, tensor) for name, tensor in self._peft.named_parameters() if tensor.requires_grad)
        self.parameters: Mapping[str, torch.nn.Parameter] = {
            name.replace(".default.", "."): tensor for name, tensor in trained
        }

    def hidden_states(self, batch: Batch, *, training: bool) -> Tensor:
        """See `Body`; rows are padded on the right on their way in."""
        self._peft.train(training)
        ids_BT = pad_sequence(list(torch.split(batch.ids_S, list(batch.lengths))), batch_first=True)
        lengths_B = torch.tensor(batch.lengths, device=ids_BT.device)
        mask_BT = torch.arange(ids_BT.shape[1], device=ids_BT.device) < lengths_B[:, None]
        decoder: Any = self._peft.get_base_model().model
        found = decoder(input_ids=ids_BT, attention_mask=mask_BT.long(), use_cache=False)
        hidden_SH: Tensor = found.last_hidden_state[mask_BT]
        return hidden_SH

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """See `Body`."""
        with self._peft.disable_adapter():
            yield

    def checkpoint_activations(self) -> None:
        """See `Body`."""
        self._peft.gradient_checkpointing_enable({"use_reentrant": False})
        self._peft.enable_input_require_grads()


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
    """The base with a fresh adapter, or with a copy of the one in `from_adapter`, whose shape then counts."""
    whole = _load_base(base, dtype, device, quantization)
    targets = list(target_modules or _all_linear(whole))
    given = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, lora_dropout=dropout)
    config = _config_of(from_adapter) if from_adapter else given
    config.task_type = TaskType.CAUSAL_LM
    _check_targets(whole, config)
    torch.manual_seed(seed)
    own = whole.config.model_type in FAMILIES and not config.lora_dropout and quantization is None
    body: Body = OwnBody(Decoder(whole), config, device) if own else PeftBody(whole, config)
    config.base_model_name_or_path = base.name
    softcap = getattr(whole.config, "final_logit_softcapping", None)
    model = LoraModel(body, whole.get_output_embeddings(), softcap, config)
    if from_adapter is not None:
        model.copy_from(from_adapter)
    if gradient_checkpointing:
        model.checkpoint_activations()
    return model


def _load_base(base: Path, dtype: str, device: str, quantization: str | None) -> Any:
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"dtype": getattr(torch, dtype), "local_files_only": True}
    if quantization is not None:
        options |= {"quantization_config": _quantized(quantization, device), "device_map": device}
    whole: Any = AutoModelForCausalLM.from_pretrained(base, **options)
    whole.requires_grad_(requires_grad=False)
    return whole if quantization is not None else whole.to(device)


def _quantized(quantization: str, device: str) -> Any:
    from importlib.util import find_spec

    from transformers import BitsAndBytesConfig

    if device != "cuda" or find_spec("bitsandbytes") is None:
        raise InvalidRequest(
            f"A base of {quantization} needs an NVIDIA GPU and the package bitsandbytes; this is {device}. "
            "Leave quantization out: the base is then held in 16 or 32 bits.",
            param="brie.quantization",
            code="quantization_unavailable",
        )
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    four: dict[str, Any] = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    return BitsAndBytesConfig(**four, bnb_4bit_compute_dtype=torch.bfloat16)  # type: ignore[no-untyped-call]


def _linears(whole: Any) -> list[str]:
    """The name of every linear layer but the head."""
    head = whole.get_output_embeddings()
    found = whole.named_modules()
    return [name for name, each in found if isinstance(each, torch.nn.Linear) and each is not head]


def _all_linear(whole: Any) -> list[str]:
    """What all their names end in."""
    return sorted({name.rpartition(".")[2] for name in _linears(whole)})


def _is_target(name: str, targets: Iterable[str]) -> bool:
    """As PEFT has it: a target is a whole name, or what follows a dot in it."""
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _check_targets(whole: Any, config: LoraConfig) -> None:
    names = _linears(whole)
    unknown = [target for target in sorted(_targets(config)) if not any(_is_target(n, [target]) for n in names)]
    if unknown:
        raise InvalidRequest(
            f"The model has no linear layers called {', '.join(unknown)}; it has {', '.join(_all_linear(whole))}.",
            param="brie.target_modules",
        )


def _targets(config: LoraConfig) -> Iterable[str]:
    found = config.target_modules
    return [found] if isinstance(found, str) else found or ()


def _config_of(adapter: Path) -> LoraConfig:
    """Of an adapter to go on from; what would be scaled by layer is refused rather than scaled alike."""
    found = read_json(adapter / "adapter_config.json")
    if strange := [n for n in ("rank_pattern", "alpha_pattern", "use_rslora", "use_dora") if found.get(n)]:
        raise InvalidRequest(
            f"Training cannot go on from an adapter with {', '.join(strange)}.", param="brie.from_checkpoint"
        )
    return LoraConfig(r=found["r"], lora_alpha=found["lora_alpha"], target_modules=found["target_modules"])


def _fresh_lora(
    decoder: Decoder, config: LoraConfig, device: str
) -> dict[str, tuple[torch.nn.Parameter, torch.nn.Parameter]]:
    """A as PEFT begins it, uniform within 1 / sqrt(inputs), and B zero, so that the first answer is the base's."""
    lora = {}
    for group in decoder.groups():
        for name, size in zip(group.names, group.sizes, strict=True):
            if _is_target(name, _targets(config)):
                a_RI = torch.empty(config.r, group.weight_OI.shape[1])
                torch.nn.init.kaiming_uniform_(a_RI, a=math.sqrt(5))
                b_OR = torch.zeros(size, config.r)
                lora[name] = (torch.nn.Parameter(a_RI.to(device)), torch.nn.Parameter(b_OR.to(device)))
    return lora
