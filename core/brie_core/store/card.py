"""An adapter version's model card: its brie.json in words. Nobody types a number. It knows the manifest, no file."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_SHOWN_STEPS = 20
_COLUMNS = {
    "train_loss": "training loss",
    "train_mean_token_accuracy": "training accuracy",
    "valid_loss": "validation loss",
    "valid_mean_token_accuracy": "validation accuracy",
    "valid_reward_margin": "validation margin",
}


def card(manifest: Mapping[str, Any]) -> str:
    """README.md as the Hugging Face hub reads it; an adapter that was imported has less to tell."""
    return "\n\n".join(section for section in _sections(manifest) if section) + "\n"


def _sections(manifest: Mapping[str, Any]) -> Iterator[str]:
    base, lora, step = manifest["base"], manifest["lora"], manifest.get("step")
    yield _front(base["id"])
    made = f", as it was at step {step}" if step is not None else ""
    yield f"# An adapter of {base['id']}{made}"
    yield _list(
        "Identity",
        {
            "version": manifest["version"],
            "base weights": base["digest"],
            "LoRA rank": lora.get("r"),
            "LoRA alpha": lora.get("lora_alpha"),
            "modules": _modules(lora.get("target_modules")),
            "parameters": manifest.get("num_parameters"),
            "job": manifest.get("job_id"),
        },
    )
    yield from training_sections(manifest)
    yield _use(base["id"])


def training_sections(manifest: Mapping[str, Any]) -> Iterator[str]:
    """What is known of how the adapter was trained; empty texts where nothing is."""
    yield _list("Data", {**_data(manifest.get("datasets") or {}), **_named(manifest.get("counts") or {})})
    yield _list("Training", _named(manifest.get("training") or {}))
    yield _results(manifest.get("history") or [])
    yield _list("Software", _named(manifest.get("software") or {}))


def _front(base: str) -> str:
    """YAML; a text in JSON's quotes is one there, whatever is in it."""
    named, tag = json.dumps(base, ensure_ascii=False), json.dumps(f"base_model:adapter:{base}", ensure_ascii=False)
    head = [f"base_model: {named}", "library_name: peft", "pipeline_tag: text-generation"]
    return "\n".join(["---", *head, "tags:", f"- {tag}", "- lora", "- brie", "---"])


def _list(title: str, facts: Mapping[str, Any]) -> str:
    lines = [f"- {name}: {value}" for name, value in facts.items() if value is not None]
    return "\n".join([f"## {title}", "", *lines]) if lines else ""


def _named(facts: Mapping[str, Any]) -> dict[str, Any]:
    told = {name: ", ".join(map(str, v)) if isinstance(v, list | tuple) else v for name, v in facts.items()}
    return {name.replace("_", " "): value for name, value in told.items()}


def _data(datasets: Mapping[str, Any]) -> dict[str, str]:
    return {name.replace("_", " "): f"{each['file_id']}, sha256 {each['sha256']}" for name, each in datasets.items()}


def _modules(names: Any) -> str | None:
    return ", ".join(sorted({name.rpartition(".")[2] for name in names})) if isinstance(names, list) else names


def _results(history: Sequence[Mapping[str, Any]]) -> str:
    """Steps with a validation, or else evenly chosen ones, and always the last."""
    merged: dict[int, dict[str, Any]] = {}
    for record in history:
        merged.setdefault(record["step"], {}).update(record)
    validated = [step for step, record in merged.items() if "valid_loss" in record]
    steps = sorted(validated or merged)
    chosen = [*steps[:: max(len(steps) // _SHOWN_STEPS, 1)], *steps[-1:]]
    columns = {name: title for name, title in _COLUMNS.items() if any(name in merged[step] for step in chosen)}
    if not columns:
        return ""
    rows = [["step", *columns.values()], ["---"] * (len(columns) + 1)]
    for step in dict.fromkeys(chosen):
        found = (merged[step].get(name) for name in columns)
        rows.append([str(step), *("" if value is None else f"{value:.4f}" for value in found)])
    return "\n".join(["## Results", "", *(f"| {' | '.join(row)} |" for row in rows)])


def _use(base: str) -> str:
    return (
        "## Use\n\n"
        "- Brie: ask it by its name at any OpenAI client.\n"
        f"- PEFT: `PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base!r}), FOLDER)`\n"
        "- GGUF: `brie export NAME` makes a file of it and its base, for llama.cpp and what builds on it."
    )
