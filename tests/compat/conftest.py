"""What the compatibility tests hold answers against: transformers' model and tokenizer of the served folder."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


@pytest.fixture(scope="session")
def tokenizer(tiny_model: Path) -> Any:
    """The served model's."""
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="session")
def model(tiny_model: Path) -> Any:
    """The served model in float32."""
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
