"""Losses and gradients of every method against TRL's trainers, on the very tokens that TRL made of the rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from brie_trainer.data.examples import IGNORED, Example, Pair, Rated
from brie_trainer.training.batches import collate
from brie_trainer.training.job_rows import Item
from brie_trainer.training.model import LoraModel, load
from brie_trainer.training.objective import (
    Desirability,
    Objective,
    Preference,
    Supervised,
    mismatched,
    per_sequence,
)

ANSWERS = ["Yes, it is.", "No", "Perhaps, who could tell that?", "It is what it was"]


def asked(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Is {number} so?"}]


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


PAIRS = [
    {"prompt": asked(n), "chosen": said(answer), "rejected": said(f"{n} is not.")} for n, answer in enumerate(ANSWERS)
]
RATED = [{"prompt": asked(n), "completion": said(text), "label": n % 2 == 0} for n, text in enumerate(ANSWERS)]


@pytest.fixture(scope="module")
def judged(tiny_model: Path, tiny_lora: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """A TRL trainer over the tiny model and its adapter, by its class's name."""
    folder = tmp_path_factory.mktemp("trl")

    def trainer(name: str, rows: list[dict[str, Any]], **options: Any) -> Any:
        import trl

        tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_model)
        tokenizer.pad_token = tokenizer.eos_token
        base = AutoModelForCausalLM.from_pretrained(tiny_model)
        plain = {"report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False}
        config = getattr(trl, f"{name}Config")(
            output_dir=str(folder), per_device_train_batch_size=4, max_length=None, seed=1, **plain, **options
        )
        arguments = {"args": config, "train_dataset": Dataset.from_list(rows), "processing_class": tokenizer}
        lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        made = getattr(trl, f"{name}Trainer")(model=base, peft_config=lora, **arguments)
        # given an adapter, TRL takes it for the reference too: this one's reference is the base, as ours
        set_peft_model_state_dict(made.model, load_file(tiny_lora / "adapter_model.safetensors"))
        return made

    return trainer


@pytest.fixture
def ours(tiny_model: Path, tiny_lora: Path) -> LoraModel:
    return load(
        tiny_model,
        rank=4, alpha=8, dropout=0.0, target_modules=None, dtype="float32", device="cpu",
        gradient_checkpointing=False, quantization=None, from_adapter=tiny_lora, seed=1,
    )  # fmt: skip


def their_loss(trainer: Any, batch: Any) -> tuple[float, dict[str, torch.Tensor]]:
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    trained = ((name, tensor) for name, tensor in trainer.model.named_parameters() if tensor.requires_grad)
    return float(loss), {name.replace(".default.", "."): tensor.grad for name, tensor in trained}


def our_loss(model: LoraModel, objective: Objective, items: list[Item]) -> tuple[float, dict[str, torch.Tensor]]:
    sequences = [sequence for item in items for sequence in item.sequences]
    with torch.no_grad(), model.without_adapter():
        reference = per_sequence(model.score(collate(sequences), training=False), len(sequences))
        strangers = mismatched(items)
        before = per_sequence(model.score(collate(strangers), training=False), len(strangers))
    with torch.no_grad():
        now = per_sequence(model.score(collate(strangers), training=False), len(strangers))
    drift = max(float((now - before).mean()), 0.0)
    loss, _ = objective.loss(items, model.score(collate(sequences), training=True), reference, drift)
    loss = loss / sum(objective.weight(item) for item in items)
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss), {name: parameter.grad for name, parameter in model.parameters.items()}  # type: ignore[misc]


def examples(ids: torch.Tensor, mask: torch.Tensor, answers: torch.Tensor) -> list[Example]:
    rows = zip(ids.tolist(), mask.sum(1).tolist(), answers.tolist(), strict=True)
    return [
        Example(row[:length], [t if a else IGNORED for t, a in zip(row[:length], answer[:length], strict=True)])
        for row, length, answer in rows
    ]


def assert_equal(found: tuple[float, dict[str, torch.Tensor]], wanted: tuple[float, dict[str, torch.Tensor]]) -> None:
    assert found[0] == pytest.approx(wanted[0], rel=1e-5)
    assert found[1].keys() == wanted[1].keys()
    for name, gradient in wanted[1].items():
        assert torch.allclose(found[1][name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max())), name


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_supervised_is_trls_loss(judged: Callable[..., Any], ours: LoraModel) -> None:
    rows = [{"prompt": asked(n), "completion": said(text)} for n, text in enumerate(ANSWERS)]
    trainer = judged("SFT", rows)
    batch = next(iter(trainer.get_train_dataloader()))
    answers = batch["labels"] != IGNORED
    items: list[Item] = list(examples(batch["input_ids"], batch["attention_mask"], answers))
    assert_equal(our_loss(ours, Supervised(), items), their_loss(trainer, batch))


def test_preference_is_trls_loss(judged: Callable[..., Any], ours: LoraModel) -> None:
    trainer = judged("DPO", PAIRS, beta=0.3)
    batch = next(iter(trainer.get_train_dataloader()))
    both = examples(batch["input_ids"], batch["attention_mask"], batch["completion_mask"])
    items: list[Item] = [Pair(*pair) for pair in zip(both[:4], both[4:], strict=True)]
    found = our_loss(ours, Preference(0.3), items)
    assert found[0] != pytest.approx(0.6931, abs=1e-3)
    assert_equal(found, their_loss(trainer, batch))


def test_desirability_is_trls_loss(judged: Callable[..., Any], ours: LoraModel) -> None:
    trainer = judged("KTO", RATED, beta=0.3)
    batch = next(iter(trainer.get_train_dataloader()))
    found = examples(batch["input_ids"], batch["attention_mask"], batch["completion_mask"])
    items: list[Item] = [Rated(e, bool(label)) for e, label in zip(found, batch["label"], strict=True)]
    assert_equal(our_loss(ours, Desirability(0.3), items), their_loss(trainer, batch))
