"""The key/values of a GGUF header, from values to plain data. It knows names and numbers, not how they are written."""

from brie_convert.architecture import Architecture
from brie_convert.vocabulary import Vocabulary

Value = str | bool | int | float | list[str] | list[int] | list[float] | list[bool]


def header(
    architecture: Architecture, vocabulary: Vocabulary, origin: dict[str, Value], parameters: int, file_type: int
) -> dict[str, Value]:
    """All keys but `general.architecture`, which the writer sets; `origin` comes as it is, and holds no local path."""
    general: dict[str, Value] = {
        "general.type": "model",
        "general.size_label": size_label(parameters),
        "general.file_type": file_type,
        "general.quantization_version": 2,
    }
    return general | origin | _model(architecture, len(vocabulary.tokens)) | _tokenizer(vocabulary)


def size_label(parameters: int) -> str:
    """134,515,008 is 135M."""
    for unit, size in (("B", 10**9), ("M", 10**6)):
        if parameters >= size:
            count = parameters / size
            return f"{count:.0f}{unit}" if count >= 10 else f"{count:.1f}{unit}"
    return f"{max(1, round(parameters / 1000))}K"


def _model(architecture: Architecture, vocab_size: int) -> dict[str, Value]:
    numbers: dict[str, Value] = {
        "block_count": architecture.layers,
        "context_length": architecture.context_length,
        "embedding_length": architecture.hidden,
        "feed_forward_length": architecture.feed_forward,
        "attention.head_count": architecture.heads,
        "attention.head_count_kv": architecture.kv_heads,
        "attention.key_length": architecture.head_dim,
        "attention.value_length": architecture.head_dim,
        "attention.layer_norm_rms_epsilon": architecture.norm_epsilon,
        "rope.dimension_count": architecture.head_dim,
        "rope.freq_base": architecture.rope_theta,
        "vocab_size": vocab_size,
    }
    return {f"{architecture.family}.{name}": value for name, value in (numbers | dict(architecture.keys)).items()}


def _tokenizer(vocabulary: Vocabulary) -> dict[str, Value]:
    lists: dict[str, Value] = {
        "model": vocabulary.model,
        "pre": vocabulary.pre_tokenizer,
        "tokens": list(vocabulary.tokens),
        "token_type": list(vocabulary.types),
        **({"merges": list(vocabulary.merges)} if vocabulary.model == "gpt2" else _pieces(vocabulary)),
        "add_bos_token": vocabulary.adds_bos,
        "add_eos_token": vocabulary.adds_eos,
    }
    ids: dict[str, Value] = {f"{role}_token_id": token for role, token in vocabulary.special_ids.items()}
    fields = {f"tokenizer.ggml.{name}": value for name, value in (lists | ids).items()}
    if vocabulary.chat_template:
        fields["tokenizer.chat_template"] = vocabulary.chat_template
    return fields


def _pieces(vocabulary: Vocabulary) -> dict[str, Value]:
    return {"scores": list(vocabulary.scores), "add_space_prefix": vocabulary.adds_space_prefix}
