"""The model card says what brie.json says, and no number besides."""

import json
import re
from typing import Any

import pytest
import yaml

from brie_core.store.card import card

MANIFEST: dict[str, Any] = {
    "version": "ab" * 32,
    "base": {"id": "smollm2", "digest": "cd" * 32},
    "lora": {"r": 16, "lora_alpha": 32, "target_modules": ["model.layers.0.q_proj", "model.layers.1.q_proj", "v_proj"]},
    "num_parameters": 4884480,
    "job_id": "ftjob-1",
    "training": {"method": "supervised", "n_epochs": 3, "learning_rate": 0.0005, "seed": 7, "device": "cpu"},
    "counts": {"examples": 60, "tokens": 11909},
    "datasets": {"training_file": {"file_id": "file-1", "sha256": "ef" * 32}},
    "software": {"torch": "2.13.0"},
    "step": 40,
    "history": [
        {"step": 0, "valid_loss": 4.6621},
        *({"step": step, "train_loss": 4.0 - step / 20} for step in range(1, 41)),
        {"step": 40, "valid_loss": 4.18512},
    ],
}


def test_every_number_of_the_card_stands_in_the_manifest() -> None:
    text = card(MANIFEST)
    known = re.findall(r"\d+(?:\.\d+)?", json.dumps(MANIFEST))
    rounded = {f"{float(number):.4f}" for number in known}
    for number in re.findall(r"\d+(?:\.\d+)?", text):
        assert number in known or number in rounded, number


def test_it_has_the_front_matter_the_results_and_how_to_use_it() -> None:
    text = card(MANIFEST)
    front = yaml.safe_load(text.split("---\n")[1])
    assert (front["base_model"], front["library_name"]) == ("smollm2", "peft")
    assert {"lora", "brie", "base_model:adapter:smollm2"} <= set(front["tags"])
    assert "| 40 | 2.0000 | 4.1851 |" in text and "| 0 |  | 4.6621 |" in text
    assert "- modules: q_proj, v_proj" in text
    assert all(way in text for way in ("OpenAI client", "PeftModel.from_pretrained", "brie export"))
    assert all(digest in text for digest in ("ab" * 32, "cd" * 32, "ef" * 32)) and "- device: cpu" in text


@pytest.mark.parametrize("name", ["org/model: a #1", "null", "007", "'quoted\""])
def test_a_base_of_any_name_is_that_name_in_the_front_matter(name: str) -> None:
    front = yaml.safe_load(card(MANIFEST | {"base": {"id": name, "digest": "cd" * 32}}).split("---\n")[1])
    assert front["base_model"] == name


def test_a_list_is_told_as_words() -> None:
    text = card(MANIFEST | {"training": {"target_modules": ["q_proj", "v_proj"]}})
    assert "- target modules: q_proj, v_proj" in text


def test_an_imported_adapter_has_a_card_without_a_training() -> None:
    text = card({name: MANIFEST[name] for name in ("version", "base", "lora", "num_parameters")})
    assert "## Training" not in text and "## Results" not in text and "## Identity" in text
