"""README.md of an export: every number of it stands in the manifest or in the adapter's brie.json."""

import re
from typing import Any

import pytest

from brie_convert.card import card

FACTS: dict[str, Any] = {
    "training": {"n_epochs": 3, "learning_rate": 0.0007},
    "datasets": {"training_file": {"file_id": "file-x", "sha256": "5" * 64}},
    "history": [{"step": 4, "train_loss": 1.2345}],
}
MANIFEST: dict[str, Any] = {
    "model": "philosophy",
    "format": "gguf",
    "quantization": "q4_k_m",
    "dtype": None,
    "base": {"id": "small-135", "digest": "1" * 64},
    "adapter": {"version": "2" * 64},
    "architecture": "llama",
    "tensors": {"types": {"Q5_0": 166, "F32": 61}, "fallbacks": 180, "bits_per_weight": 6.17},
    "verification": {"texts": 3000, "normalizer": None, "stop_tokens": (2, 7), "answer": "Virtue\n is 99"},
    "quality": {"mean_kl": 0.031, "before_quantization": {"mean_kl": 2.5e-06}},
    "versions": {"gguf": "0.19.0"},
    "files": [{"filename": "philosophy-q4_k_m.gguf", "bytes": 105_454_432, "sha256": "3" * 64}],
}


@pytest.mark.parametrize("form", ["gguf", "gguf_adapter", "merged", "peft"])
def test_every_number_is_a_fact(form: str) -> None:
    text = card(MANIFEST | {"format": form}, FACTS)
    known = set(re.findall(r"[\d.]*\d", repr(MANIFEST) + repr(FACTS) + "1.2345"))
    assert set(re.findall(r"[\d.]*\d", text)) <= known
    for fact in ("3" * 64, "2" * 64, "180", "Q5_0: 166", "3000", "2, 7", "2.5e-06", "0.0007", "| 4 | 1.2345 |"):
        assert fact in text, fact
    assert "None" not in text


def test_the_hub_is_told_what_it_is() -> None:
    relations = {"gguf": "quantized", "gguf_adapter": "adapter", "merged": "merge", "peft": "adapter"}
    for form, relation in relations.items():
        front = card(MANIFEST | {"format": form}, FACTS).split("---")[1]
        assert f"base_model_relation: {relation}\n" in front
        assert 'base_model: "small-135"\n' in front
    assert "- lora" not in card(MANIFEST | {"adapter": None}, {})


def test_a_base_alone_has_no_adapter_and_no_training() -> None:
    text = card(MANIFEST | {"format": "merged", "adapter": None, "quantization": None}, {})
    assert "# philosophy as a Hugging Face folder\n" in text
    for word in ("adapter version", "## Training", "## Data", "None"):
        assert word not in text


def test_an_evaluation_of_the_version_is_a_section_of_its_own() -> None:
    section = "## Evaluation\n\nMeasured by Brie.\n"
    text = card(MANIFEST, FACTS, section)
    assert text.index("## Exported with") < text.index(section.strip()) < text.index("## Use")
    assert text.replace("\n\n" + section.strip(), "") == card(MANIFEST, FACTS)
