"""README.md of an export: its manifest, and the adapter version's brie.json, in words. Nobody types a number."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from brie_core.store.card import training_sections

CARD = "README.md"
_TITLES = {
    "gguf": "as a GGUF file",
    "gguf_adapter": "as a GGUF adapter",
    "merged": "merged into its base",
    "peft": "as a PEFT archive",
}
_LIBRARIES = {"gguf": "gguf", "gguf_adapter": "gguf", "merged": "transformers", "peft": "peft"}
_RELATIONS = {"gguf": "quantized", "gguf_adapter": "adapter", "merged": "merge", "peft": "adapter"}
"""To the base model, in the Hugging Face hub's words."""


def card(manifest: Mapping[str, Any], facts: Mapping[str, Any], evaluation: str | None = None) -> str:
    """As the Hugging Face hub reads it; `facts` is the adapter version's brie.json, or empty.

    `evaluation` is a section of its own, of the version that was evaluated and not of the file that is exported.
    """
    sections = (*_sections(manifest, facts), evaluation and evaluation.strip(), _use(manifest))
    return "\n\n".join(section for section in sections if section) + "\n"


def _sections(manifest: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[str]:
    form, base, adapter = manifest["format"], manifest["base"], manifest["adapter"]
    yield _front(form, base["id"], has_adapter=adapter is not None)
    yield f"# {manifest['model']} {'as a Hugging Face folder' if form == 'merged' and not adapter else _TITLES[form]}"
    yield _list(
        "Identity",
        {
            "base": base["id"],
            "base weights": base["digest"],
            "adapter version": adapter["version"] if adapter else None,
            "quantization": manifest["quantization"],
            "weights stored as": ", ".join(manifest.get("dtypes", ())) or None,
            "architecture": manifest.get("architecture"),
        },
    )
    yield _files(manifest)
    yield _list("Tensors", dict(_flat(manifest.get("tensors") or {})))
    yield _list("Verified", dict(_flat(manifest.get("verification") or {})))
    yield _list("Quality", dict(_flat(manifest.get("quality") or {})))
    yield from training_sections(facts)
    yield _list("Exported with", manifest["versions"])


def _front(form: str, base: str, *, has_adapter: bool) -> str:
    """YAML; a text in JSON's quotes is one there, whatever is in it."""
    relation = _RELATIONS[form] if has_adapter or form == "gguf" else "finetune"
    head = [f"base_model: {json.dumps(base, ensure_ascii=False)}", f"base_model_relation: {relation}"]
    head += [f"library_name: {_LIBRARIES[form]}", "pipeline_tag: text-generation"]
    tags = ["brie", *(["lora"] if has_adapter else []), *(["gguf"] if form.startswith("gguf") else [])]
    return "\n".join(["---", *head, "tags:", *(f"- {tag}" for tag in tags), "---"])


def _files(manifest: Mapping[str, Any]) -> str:
    rows = [f"| {file['filename']} | {file['bytes']} | {file['sha256']} |" for file in manifest["files"]]
    return "\n".join(["## Files", "", "| file | bytes | sha256 |", "|---|---|---|", *rows])


def _list(title: str, facts: Mapping[str, Any]) -> str:
    lines = [f"- {name}: {value}" for name, value in facts.items() if value is not None]
    return "\n".join([f"## {title}", "", *lines]) if lines else ""


def _flat(facts: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in facts.items():
        path = f"{before}{name.replace('_', ' ') if name.islower() else name}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}, ")
        elif isinstance(value, list | tuple):
            yield path, ", ".join(map(str, value)) or None
        else:
            yield path, " ".join(value.split()) if isinstance(value, str) else value


def _use(manifest: Mapping[str, Any]) -> str:
    main, base = manifest["files"][0]["filename"], manifest["base"]["id"]
    ways = {
        "gguf": [
            f"- llama.cpp: `llama-cli -m {main}`",
            "- Ollama: `ollama create NAME -f Modelfile`",
            f"- Brie: `BRIE_ENGINE=llamacpp BRIE_MODEL={main} brie serve`",
        ],
        "gguf_adapter": [f"- llama.cpp: `llama-cli -m BASE.gguf --lora {main}`, where BASE.gguf is {base}"],
        "merged": ["- transformers: `AutoModelForCausalLM.from_pretrained(FOLDER)`", "- Brie: `BRIE_MODEL=FOLDER`"],
        "peft": [
            f"- PEFT: `PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base!r}), FOLDER)`, where "
            f"FOLDER is what {main} holds"
        ],
    }
    return "\n".join(["## Use", "", *ways[manifest["format"]]])
