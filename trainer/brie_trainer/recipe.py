"""Supervised LoRA fine-tuning with TRL, in the job's child process.

It is given examples and numbers, reports through a callback, and leaves a PEFT folder. It knows no job and no database.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from brie_trainer.evaluation import Evaluation, evaluate
from brie_trainer.hyperparameters import Hyperparameters
from brie_trainer.labels import Example
from brie_trainer.progress import Progress, history_of

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training run."""

    base: Path
    """The base model's Hugging Face folder."""
    output: Path
    """Where checkpoints and, at the end, the folder `adapter` go."""
    training: Sequence[Example]
    validation: Sequence[Example]
    hyperparameters: Hyperparameters
    seed: int
    device: str
    """cpu, cuda or mps."""
    dtype: str
    """float32 or bfloat16: of the weights; the adapter is trained in float32."""
    resume_from: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a run."""

    adapter: Path
    steps: int
    trained_tokens: int
    """Tokens the loss counted, over all epochs."""
    validation: Evaluation | None
    history: Sequence[Mapping[str, Any]]
    """The metrics of every step, in order."""


def train(run: Run, emit: Callable[[dict[str, Any]], None]) -> Outcome:
    """Train to the end; `emit` gets each event as a JSON-ready object."""
    model = AutoModelForCausalLM.from_pretrained(run.base, dtype=_DTYPES[run.dtype], local_files_only=True)
    progress = Progress(emit, run.validation, _validate, num_tokens=sum(len(e.input_ids) for e in run.training))
    trainer = SFTTrainer(
        model=model,
        args=_arguments(run),
        train_dataset=_dataset(run.training),
        processing_class=_padding_tokenizer(run.base),
        peft_config=_lora(run.hyperparameters),
        callbacks=[progress],
    )
    progress.attach(trainer)
    trainer.train(resume_from_checkpoint=None if run.resume_from is None else str(run.resume_from))
    adapter = run.output / "adapter"
    trainer.save_model(str(adapter))
    return Outcome(
        adapter=adapter,
        steps=trainer.state.global_step,
        trained_tokens=sum(e.num_trained for e in run.training) * run.hyperparameters.n_epochs,
        validation=progress.last_evaluation,
        history=history_of(trainer.state),
    )


def choose_device(wanted: str) -> str:
    """The device to train on."""
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def choose_dtype(wanted: str, device: str) -> str:
    """bf16 where the hardware multiplies it fast, else f32; also f32 for float16, whose range training overflows."""
    if wanted != "auto":
        return "bfloat16" if wanted == "bfloat16" else "float32"
    fast = {"cuda": torch.cuda.is_bf16_supported, "mps": lambda: True, "cpu": _cpu_multiplies_bf16}[device]
    return "bfloat16" if fast() else "float32"


def _cpu_multiplies_bf16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _validate(trainer: SFTTrainer, examples: Sequence[Example]) -> Evaluation:
    if trainer.model is None:
        raise RuntimeError("the trainer has no model")
    return evaluate(trainer.model, examples, trainer.accelerator.device)


def _dataset(examples: Sequence[Example]) -> Dataset:
    rows = [{"input_ids": e.input_ids, "labels": e.labels, "length": len(e.input_ids)} for e in examples]
    return Dataset.from_list(rows)


def _padding_tokenizer(base: Path) -> PreTrainedTokenizerFast:
    """TRL asks a tokenizer for its padding and stop tokens; the examples are tokenised already."""
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(base, local_files_only=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _lora(chosen: Hyperparameters) -> LoraConfig:
    return LoraConfig(
        r=chosen.rank,
        lora_alpha=chosen.alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def _arguments(run: Run) -> SFTConfig:
    chosen = run.hyperparameters
    total_steps = math.ceil(len(run.training) / chosen.batch_size) * chosen.n_epochs
    arguments = SFTConfig(
        output_dir=str(run.output / "checkpoints"),
        num_train_epochs=chosen.n_epochs,
        per_device_train_batch_size=chosen.batch_size,
        gradient_accumulation_steps=1,
        learning_rate=chosen.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(10, total_steps // 10),  # the first warm-up step learns nothing
        max_grad_norm=1.0,
        bf16=run.dtype == "bfloat16",
        use_cpu=run.device == "cpu",
        gradient_checkpointing=False,
        train_sampling_strategy="group_by_length",
        length_column_name="length",
        max_length=None,
        packing=False,
        logging_steps=1,
        disable_tqdm=True,
        report_to="none",
        eval_strategy="no",
        save_strategy="no",  # Progress says when
        seed=run.seed,
        data_seed=run.seed,
        dataloader_pin_memory=run.device == "cuda",
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    # one device, or the Trainer would wrap the model in DataParallel and multiply the batch that was asked for
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
