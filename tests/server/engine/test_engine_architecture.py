"""What is read from a config.json, and what is refused by name. No tensors."""

from typing import Any

import pytest
import torch
from transformers import Gemma3TextConfig, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from brie_core.errors import BadConfiguration
from brie_core.weights import base_model
from brie_server.engine.torch import families
from brie_server.engine.torch.architecture import Attention, read_architecture
from brie_server.engine.torch.rotary import LinearScaling, Llama3Scaling, Rope
from brie_server.engine.torch.rotation import rotary_frequencies

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


GEMMA3 = LLAMA | {"model_type": "gemma3_text", "head_dim": 16, "num_hidden_layers": 6}


def windows(config: dict[str, Any]) -> list[int | None]:
    return [attention.window for attention in read_architecture(config).attentions]


def test_core_opens_what_the_engine_runs_and_one_family_that_is_exported_only() -> None:
    assert {*families.FAMILIES, "gemma2"} == set(base_model.FAMILIES)
    with pytest.raises(BadConfiguration, match="gemma2"):
        read_architecture({**LLAMA, "model_type": "gemma2"})


def test_what_a_config_leaves_out_is_as_in_transformers() -> None:
    architecture = read_architecture(LLAMA)
    assert (architecture.num_kv_heads, architecture.head_dim, architecture.score_scale) == (4, 8, 8**-0.5)
    assert architecture.attentions == (Attention(None, Rope(10000.0, None)),) * 2
    assert (architecture.tied_head, architecture.switches) == (False, families.Switches())


def test_what_gemma3_leaves_out_is_as_in_transformers() -> None:
    architecture, theirs = read_architecture(GEMMA3), Gemma3TextConfig(num_hidden_layers=6, num_attention_heads=4)
    ropes: Any = theirs.rope_parameters
    full, sliding = (Rope(ropes[f"{kind}_attention"]["rope_theta"], None) for kind in ("full", "sliding"))
    assert architecture.attentions == (*[Attention(theirs.sliding_window, sliding)] * 5, Attention(None, full))
    assert architecture.score_scale == theirs.query_pre_attn_scalar**-0.5
    assert architecture.tied_head == theirs.tie_word_embeddings


@pytest.mark.parametrize(
    "rotary",
    [
        {"rope_theta": 1e5, "rope_local_base_freq": 5e3, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
            }
        },
    ],
)
def test_both_ropes_of_gemma3_are_read_from_old_and_new_configs(rotary: dict[str, Any]) -> None:
    first, *_, last = read_architecture(GEMMA3 | rotary).attentions
    assert (first.rope, last.rope) == (Rope(5e3, None), Rope(1e5, LinearScaling(8.0)))


def test_a_family_with_windows_has_them_where_transformers_has() -> None:
    mixed = ["full_attention", "sliding_attention"]
    opted_in = {"use_sliding_window": True, "sliding_window": 9}
    assert windows(LLAMA | {"model_type": "mistral"}) == [4096, 4096]
    assert windows(LLAMA | {"model_type": "mistral", "sliding_window": None}) == [None, None]
    assert windows(LLAMA | {"model_type": "qwen2", "sliding_window": 9, "use_sliding_window": False}) == [None, None]
    assert windows(LLAMA | {"model_type": "qwen2", "max_window_layers": 1} | opted_in) == [None, 9]
    assert windows(LLAMA | {"model_type": "qwen3", "layer_types": mixed} | opted_in) == [None, 9]
    assert windows(GEMMA3 | {"sliding_window": 9, "sliding_window_pattern": 3}) == [9, 9, None, 9, 9, None]
    assert windows(GEMMA3 | {"sliding_window": 9, "layer_types": mixed * 3}) == [None, 9] * 3


@pytest.mark.parametrize(
    "rotary",
    [
        {"rope_theta": 5e5, "rope_scaling": LLAMA3},
        {"rope_parameters": {"rope_theta": 5e5, **LLAMA3}},
        {"rope_theta": 5e5, "rope_scaling": LLAMA3 | {"rope_type": None, "type": "llama3"}},
    ],
)
def test_rotary_settings_are_read_from_old_and_new_configs(rotary: dict[str, Any]) -> None:
    rope = read_architecture(LLAMA | rotary).attentions[0].rope
    assert rope == Rope(5e5, Llama3Scaling(8.0, 1.0, 4.0, 8192))


@pytest.mark.parametrize("rope", [{"rope_type": "default"}, {"rope_type": "linear", "factor": 8.0}, LLAMA3])
def test_rotary_frequencies_are_those_of_transformers(rope: dict[str, Any]) -> None:
    sizes: dict[str, Any] = {"hidden_size": 512, "num_attention_heads": 4, "head_dim": 128}
    parameters = rope | {"rope_theta": 5e5}
    architecture = read_architecture(LLAMA | sizes | {"rope_parameters": parameters})
    ours = rotary_frequencies(architecture.attentions[0].rope, architecture.head_dim)
    config = LlamaConfig(**sizes, rope_parameters=dict(parameters))
    if theirs := ROPE_INIT_FUNCTIONS.get(str(rope["rope_type"])):
        torch.testing.assert_close(ours, theirs(config, torch.device("cpu"))[0])
    else:
        torch.testing.assert_close(ours, 5e5 ** -(torch.arange(0, 128, 2) / 128))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attention_bias", True),
        ("mlp_bias", True),
        ("hidden_act", "gelu"),
        ("quantization_config", {"bits": 4}),
        ("dual_chunk_attention_config", {"chunk_size": 8192}),
        ("partial_rotary_factor", 0.5),
        ("final_logit_softcapping", 30.0),
        ("attn_logit_softcapping", 50.0),
        ("use_bidirectional_attention", True),
    ],
)
@pytest.mark.parametrize("config", [LLAMA, GEMMA3])
def test_a_switch_that_is_not_implemented_is_refused_by_name(config: dict[str, Any], name: str, value: object) -> None:
    with pytest.raises(BadConfiguration, match=name):
        read_architecture(config | {name: value})


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"model_type": "mamba"}, "llama, qwen2, qwen3, mistral, gemma3_text"),
        ({"sliding_window": 4096}, "sliding_window"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "dynamic"),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window"),
        ({"model_type": "mistral", "sliding_window": 4, "use_sliding_window": False}, "use_sliding_window"),
        ({"model_type": "mistral", "layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"model_type": "qwen2", "layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"model_type": "qwen2", "layer_types": ["full_attention"] * 3}, "layer_types"),
        ({"model_type": "gemma3_text", "layer_types": ["chunked_attention"] * 2}, "layer_types"),
        ({"model_type": "gemma3_text", "sliding_window": None}, "sliding_window"),
        ({"model_type": "gemma3_text", "hidden_activation": "gelu"}, "hidden_activation"),
        ({"model_type": "gemma3_text", "rope_parameters": {"rope_theta": 1e4}}, "rope_theta"),
        ({"model_type": "gemma3"}, "gemma3"),
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
