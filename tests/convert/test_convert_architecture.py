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
_GEMMA = {**_CONFIG, "model_type": "gemma2", "head_dim": 16, "query_pre_attn_scalar": 16}
_LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "mamba"}, "mamba"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"sliding_window": 1024}, "sliding window of 1024"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding window"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "dynamic"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "beta_fast": 16}}, "beta_fast 16"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "truncate": False}}, "truncate False"),
        ({**_GEMMA, "query_pre_attn_scalar": 100}, "query_pre_attn_scalar 100"),
        ({**_GEMMA, "tie_word_embeddings": False}, "output matrix"),
        ({**_GEMMA, "attn_logit_softcapping": None}, "attn_logit_softcapping"),
        ({**_GEMMA, "hidden_activation": "gelu"}, "gelu"),
        ({**_GEMMA, "model_type": "gemma3_text", "use_bidirectional_attention": True}, "both directions"),
        ({**_GEMMA, "model_type": "gemma3_text", "layer_types": ["chunked_attention"] * 2}, "chunked"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "one per layer type"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"model_type": "qwen3", "rope_parameters": {"rope_type": "llama3", **_LLAMA3}}, "llama3"),
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


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "mistral", "sliding_window": 1024},
        {**_QWEN, "use_sliding_window": True, "sliding_window": 1024, "max_window_layers": 1},
    ],
)
def test_the_context_ends_at_a_window_that_llama_cpp_passes_over(change: dict[str, Any]) -> None:
    architecture = read_architecture(_CONFIG | change)
    assert architecture.context_length == 1024
    assert "window of 1024" in architecture.limits[0]


def test_gemma_lists_its_layers_with_a_window() -> None:
    keys = read_architecture({**_GEMMA, "model_type": "gemma3_text", "num_hidden_layers": 7}).keys
    assert keys["attention.sliding_window"] == 4096
    assert keys["attention.sliding_window_pattern"] == [True] * 5 + [False, True]
    assert read_architecture(_GEMMA).keys["attention.sliding_window_pattern"] == [True, False]


def test_yarn_writes_only_the_part_of_its_attention_factor_that_llama_cpp_does_not_apply_itself() -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
    plain = read_architecture({**_CONFIG, "rope_parameters": yarn}).keys
    assert plain == {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": 4.0,
        "rope.scaling.original_context_length": 1024,
    }
    asked = read_architecture({**_CONFIG, "rope_parameters": yarn | {"attention_factor": 1.0}}).keys
    assert asked["rope.scaling.attn_factor"] == pytest.approx(1 / 1.138629, rel=1e-5)
