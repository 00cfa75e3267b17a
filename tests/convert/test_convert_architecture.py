"""What of a config.json is exported, and what is refused by name."""

from typing import Any

import pytest

from brie_convert.architecture import read_architecture
from brie_core.errors import InvalidRequest

_CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_size": 64,
    "intermediate_size": 96,
    "max_position_embeddings": 4096,
}
_QWEN = {**_CONFIG, "model_type": "qwen2"}
_LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "mamba"}, "mamba"),
        ({"model_type": "mistral"}, "mistral"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"sliding_window": 1024}, "sliding window of 1024"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding window"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "linear"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "one per layer type"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"model_type": "qwen3", "rope_parameters": {"rope_type": "llama3", **_LLAMA3}}, "llama3"),
        ({**_QWEN, "use_sliding_window": True, "sliding_window": 1024, "max_window_layers": 1}, "sliding window"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized already"),
    ],
)
def test_what_llama_cpp_would_get_wrong_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest, match=named) as caught:
        read_architecture(_CONFIG | change)
    assert caught.value.code == "unsupported_architecture"
    assert caught.value.param == "model"


@pytest.mark.parametrize(
    "change",
    [
        {"sliding_window": 4096},
        {"use_sliding_window": False, "sliding_window": 1024},
        {**_QWEN, "sliding_window": 1024},
        {**_QWEN, "use_sliding_window": True, "sliding_window": 1024, "max_window_layers": 2},
    ],
)
def test_a_window_that_is_never_reached_is_no_obstacle(change: dict[str, Any]) -> None:
    assert read_architecture(_CONFIG | change).layers == 2


def test_a_missing_number_is_named() -> None:
    config = {name: value for name, value in _CONFIG.items() if name != "intermediate_size"}
    with pytest.raises(InvalidRequest, match="intermediate_size"):
        read_architecture(config)


def test_theta_is_found_where_either_version_of_transformers_writes_it() -> None:
    assert read_architecture({**_CONFIG, "rope_theta": 5e5}).rope_theta == 5e5
    assert read_architecture({**_CONFIG, "rope_parameters": {"rope_theta": 1e6}}).rope_theta == 1e6


def test_llama3_slows_low_frequencies_by_its_factor_and_leaves_high_ones() -> None:
    factors = read_architecture({**_CONFIG, "rope_scaling": {"rope_type": "llama3", **_LLAMA3}}).rope_factors
    assert len(factors) == 8
    assert factors[0] == 1.0
    assert factors[-1] == 8.0
    assert list(factors) == sorted(factors)
