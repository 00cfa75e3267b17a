"""What is read from a config.json, and what is refused by name. No tensors."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from brie_core.errors import BadConfiguration
from brie_server.engine.torch.architecture import Llama3Scaling, read_architecture
from brie_server.engine.torch.model import rotary_frequencies

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def test_what_a_config_leaves_out_is_as_in_transformers() -> None:
    architecture = read_architecture(LLAMA)
    assert (architecture.num_kv_heads, architecture.head_dim, architecture.rope_theta) == (4, 8, 10000.0)
    assert (architecture.tied_head, architecture.qkv_bias, architecture.qk_norm) == (False, False, False)


@pytest.mark.parametrize(
    "rotary",
    [
        {"rope_theta": 5e5, "rope_scaling": LLAMA3},
        {"rope_parameters": {"rope_theta": 5e5, **LLAMA3}},
        {"rope_theta": 5e5, "rope_scaling": LLAMA3 | {"rope_type": None, "type": "llama3"}},
    ],
)
def test_rotary_settings_are_read_from_old_and_new_configs(rotary: dict[str, Any]) -> None:
    architecture = read_architecture(LLAMA | rotary)
    assert architecture.rope_theta == 5e5
    assert architecture.rope_scaling == Llama3Scaling(8.0, 1.0, 4.0, 8192)


@pytest.mark.parametrize("rope", [{"rope_type": "default"}, LLAMA3])
def test_rotary_frequencies_are_those_of_transformers(rope: dict[str, Any]) -> None:
    sizes: dict[str, Any] = {"hidden_size": 512, "num_attention_heads": 4, "head_dim": 128}
    parameters = rope | {"rope_theta": 5e5}
    ours = rotary_frequencies(read_architecture(LLAMA | sizes | {"rope_parameters": parameters}))
    config = LlamaConfig(**sizes, rope_parameters=dict(parameters))
    if rope is LLAMA3:
        torch.testing.assert_close(ours, ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))[0])
    else:
        torch.testing.assert_close(ours, 5e5 ** -(torch.arange(0, 128, 2) / 128))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attention_bias", True),
        ("mlp_bias", True),
        ("hidden_act", "gelu"),
        ("sliding_window", 4096),
        ("use_sliding_window", True),
        ("quantization_config", {"bits": 4}),
        ("dual_chunk_attention_config", {"chunk_size": 8192}),
        ("partial_rotary_factor", 0.5),
    ],
)
def test_a_switch_that_is_not_implemented_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(BadConfiguration, match=name):
        read_architecture(LLAMA | {name: value})


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"model_type": "mamba"}, "mamba"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "linear"),
        ({"rope_parameters": {"rope_type": "default", "mrope_section": [1, 2]}}, "mrope_section"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "full_attention"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
        ({"vocab_size": None}, "TypeError"),
    ],
)
def test_a_config_of_another_kind_of_model_is_refused(config: dict[str, Any], named: str) -> None:
    with pytest.raises(BadConfiguration, match=named):
        read_architecture(LLAMA | config)


def test_a_config_without_a_size_is_refused_by_name() -> None:
    with pytest.raises(BadConfiguration, match="hidden_size"):
        read_architecture({name: value for name, value in LLAMA.items() if name != "hidden_size"})


def test_a_window_that_is_switched_off_is_no_window() -> None:
    assert read_architecture(LLAMA | {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 32768})
